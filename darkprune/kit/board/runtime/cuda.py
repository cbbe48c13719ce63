"""CUDA memory, streams and the name of the GPU, through ctypes on libcudart: no pycuda, no cuda-python."""

import ctypes
import ctypes.util
import glob
import importlib.util
import os
from typing import Dict, List, Optional, Tuple, Type

import numpy as np

from . import RuntimeFailure

# enum cudaMemcpyKind and cudaDeviceAttr (CUDA Runtime API); the values are the same in every release.
_HOST_TO_DEVICE = 1
_DEVICE_TO_HOST = 2
_CAPABILITY_MAJOR = 75
_CAPABILITY_MINOR = 76
# struct cudaDeviceProp begins with char name[256]; its size differs between releases and stays below this.
_PROPERTIES_BYTES = 16384
_NAME_BYTES = 256


def library_names() -> List[str]:
    """Returns the file names under which libcudart may be found, best first."""
    names = ["libcudart.so"]
    found = ctypes.util.find_library("cudart")
    if found:
        names.append(found)
    names += ["libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so.10.2"]
    names += sorted(glob.glob("/usr/local/cuda*/lib64/libcudart.so*"), reverse=True)
    # pip's nvidia-cuda-runtime wheels, which come with pip's tensorrt
    spec = importlib.util.find_spec("nvidia")
    for folder in list(spec.submodule_search_locations or []) if spec is not None else []:
        names += sorted(glob.glob(os.path.join(folder, "*", "lib", "libcudart.so*")), reverse=True)
    return names


def load_library() -> ctypes.CDLL:
    """Loads the first libcudart that can be loaded.

    Raises:
        RuntimeFailure: none does.
    """
    for name in library_names():
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise RuntimeFailure("libcudart: not found, install CUDA or add its lib64 folder to LD_LIBRARY_PATH")


class Cuda:
    """The calls of the CUDA runtime that inference needs; addresses are plain integers."""

    def __init__(self, library: Optional[ctypes.CDLL] = None) -> None:
        self._library = load_library() if library is None else library
        self._host: Dict[int, ctypes.c_void_p] = {}

    def _call(self, function: str, *arguments: object) -> None:
        code = getattr(self._library, function)(*arguments)
        if code != 0:
            self._library.cudaGetErrorString.restype = ctypes.c_char_p
            text = self._library.cudaGetErrorString(code)
            reason = text.decode("utf-8", "replace") if isinstance(text, bytes) else "no text"
            raise RuntimeFailure("CUDA: {} failed with {} ({})".format(function, code, reason))

    def allocate(self, nbytes: int) -> int:
        """Allocates device memory and returns its address."""
        address = ctypes.c_void_p()
        # an empty tensor still needs an address that TensorRT accepts
        self._call("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(max(nbytes, 1)))
        return int(address.value or 0)

    def free(self, address: int) -> None:
        """Frees device memory."""
        self._call("cudaFree", ctypes.c_void_p(address))

    def host_array(self, shape: Tuple[int, ...], dtype: Type[np.generic]) -> np.ndarray:
        """Allocates an array in page-locked memory, from which the GPU copies directly; `free_host` frees it."""
        count = 1
        for size in shape:
            count *= int(size)
        nbytes = max(count * np.dtype(dtype).itemsize, 1)
        address = ctypes.c_void_p()
        self._call("cudaHostAlloc", ctypes.byref(address), ctypes.c_size_t(nbytes), ctypes.c_uint(0))
        buffer = (ctypes.c_char * nbytes).from_address(int(address.value or 0))
        array: np.ndarray = np.frombuffer(memoryview(buffer), dtype=dtype, count=count).reshape(shape)
        self._host[array.ctypes.data] = address
        return array

    def free_host(self, array: np.ndarray) -> None:
        """Frees the memory of a `host_array`; the array must not be used after."""
        address = self._host.pop(array.ctypes.data, None)
        if address is not None:
            self._call("cudaFreeHost", address)

    def copy_in(self, address: int, array: np.ndarray, stream: int) -> None:
        """Queues a copy from the host to the device."""
        self._copy(address, array.ctypes.data, array.nbytes, _HOST_TO_DEVICE, stream)

    def copy_out(self, array: np.ndarray, address: int, stream: int) -> None:
        """Queues a copy from the device to the host."""
        self._copy(array.ctypes.data, address, array.nbytes, _DEVICE_TO_HOST, stream)

    def _copy(self, to: int, source: int, nbytes: int, kind: int, stream: int) -> None:
        self._call(
            "cudaMemcpyAsync",
            ctypes.c_void_p(to),
            ctypes.c_void_p(source),
            ctypes.c_size_t(nbytes),
            ctypes.c_int(kind),
            ctypes.c_void_p(stream),
        )

    def new_stream(self) -> int:
        """Creates a stream and returns its handle."""
        stream = ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(stream))
        return int(stream.value or 0)

    def free_stream(self, stream: int) -> None:
        """Destroys a stream."""
        self._call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def wait(self, stream: int) -> None:
        """Blocks until everything queued on the stream is done."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def device(self) -> Tuple[str, str]:
        """Returns name and compute capability of the current GPU, such as ("NVIDIA Tegra X1", "5.3")."""
        index = ctypes.c_int()
        self._call("cudaGetDevice", ctypes.byref(index))
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        self._call("cudaGetDeviceProperties", properties, index)
        name = properties.raw[:_NAME_BYTES].split(b"\0")[0].decode("utf-8", "replace")
        version = []
        for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
            value = ctypes.c_int()
            self._call("cudaDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), index)
            version.append(str(value.value))
        return name, ".".join(version)
