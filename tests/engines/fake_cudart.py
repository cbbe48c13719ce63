"""A libcudart whose device memory is ordinary memory, with bounds checked and leaks counted.

Runs under Python 3.6, too, so that a kit can be tried there.
"""

import ctypes

INVALID_VALUE = 1
OUT_OF_MEMORY = 2


class _ErrorString:
    """A foreign function whose restype can be set."""

    restype = None

    def __call__(self, code):
        return {INVALID_VALUE: b"invalid argument", OUT_OF_MEMORY: b"out of memory"}.get(code, b"unknown error")


class FakeCudart:
    def __init__(self, name="Fake GPU", capability=(5, 3), memory=1 << 30):
        self.name = name
        self.capability = capability
        self.memory = memory
        self.device = {}  # address: buffer
        self.host = {}
        self.streams = set()
        self.calls = []
        self.cudaGetErrorString = _ErrorString()

    def leaks(self):
        return len(self.device) + len(self.host) + len(self.streams)

    def _take(self, where, pointer, size):
        if size.value > self.memory:
            return OUT_OF_MEMORY
        buffer = ctypes.create_string_buffer(size.value)
        pointer._obj.value = ctypes.addressof(buffer)
        where[ctypes.addressof(buffer)] = buffer
        return 0

    def cudaMalloc(self, pointer, size):
        self.calls.append("cudaMalloc")
        return self._take(self.device, pointer, size)

    def cudaFree(self, address):
        return 0 if self.device.pop(address.value, None) is not None else INVALID_VALUE

    def cudaHostAlloc(self, pointer, size, flags):
        assert flags.value == 0
        return self._take(self.host, pointer, size)

    def cudaFreeHost(self, address):
        return 0 if self.host.pop(address.value, None) is not None else INVALID_VALUE

    def holds(self, address, nbytes):
        return any(start <= address and address + nbytes <= start + len(b) for start, b in self.device.items())

    def cudaMemcpyAsync(self, to, source, nbytes, kind, stream):
        self.calls.append({1: "host to device", 2: "device to host"}[kind.value])
        on_device = to if kind.value == 1 else source
        if stream.value not in self.streams or not self.holds(on_device.value, nbytes.value):
            return INVALID_VALUE
        ctypes.memmove(to.value, source.value, nbytes.value)
        return 0

    def cudaStreamCreate(self, pointer):
        pointer._obj.value = 0x5000 + len(self.streams)
        self.streams.add(pointer._obj.value)
        return 0

    def cudaStreamDestroy(self, stream):
        if stream.value not in self.streams:
            return INVALID_VALUE
        self.streams.remove(stream.value)
        return 0

    def cudaStreamSynchronize(self, stream):
        self.calls.append("synchronize")
        return 0 if stream.value in self.streams else INVALID_VALUE

    def cudaGetDevice(self, pointer):
        pointer._obj.value = 0
        return 0

    def cudaGetDeviceProperties(self, buffer, index):
        assert len(buffer) >= 4096
        name = self.name.encode()
        ctypes.memmove(buffer, name + b"\0", len(name) + 1)
        return 0

    def cudaDeviceGetAttribute(self, pointer, attribute, index):
        pointer._obj.value = self.capability[{75: 0, 76: 1}[attribute.value]]
        return 0
