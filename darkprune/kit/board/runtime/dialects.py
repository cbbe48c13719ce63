"""What differs between the generations of TensorRT's Python module: one small class each.

A dialect is chosen by what the module has, never by its version string. Tests run each against a fake that has
exactly the names of a generation.

| dialect | generations | scratch memory | network flag | precision | tensors of an engine |
|---|---|---|---|---|---|
| Dialect82 | 8.0 - 8.2 | max_workspace_size | EXPLICIT_BATCH | builder flags | bindings |
| Dialect84 | 8.4 | set_memory_pool_limit | EXPLICIT_BATCH | builder flags | bindings |
| Dialect85 | 8.5, 8.6, 10 | set_memory_pool_limit | EXPLICIT_BATCH | builder flags | named |
| Dialect11 | 11 | set_memory_pool_limit | STRONGLY_TYPED | the ONNX file | named |
| DialectRtx | TensorRT for RTX | set_memory_pool_limit | STRONGLY_TYPED | the ONNX file | named |
"""

from typing import List

from . import RuntimeFailure, TensorRT


class Dialect82:
    """TensorRT 8.0 to 8.2 (JetPack 4.6): a workspace size in bytes, tensors by binding index."""

    named_tensors = False
    precision_from_file = False
    portable = False
    keeps_timings = True

    def __init__(self, trt: TensorRT) -> None:
        self.trt = trt

    def network_flags(self) -> int:
        """Returns the flags of create_network: the batch is a dimension like any other, as ONNX has it."""
        return 1 << int(self.trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)

    def set_workspace(self, config: TensorRT, nbytes: int) -> None:
        """Limits the scratch memory that a tactic may ask for."""
        config.max_workspace_size = nbytes

    def set_compute_capability(self, config: TensorRT, capability: int) -> None:
        """Chooses the GPUs that the engine is for.

        Raises:
            RuntimeFailure: this TensorRT builds for the GPU of this machine only.
        """
        raise RuntimeFailure("compute capability {}: only TensorRT for RTX builds for other GPUs".format(capability))

    def set_precision(
        self, builder: TensorRT, config: TensorRT, wanted: str, in_file: str, calibrator: TensorRT, profile: TensorRT
    ) -> List[str]:
        """Allows the builder to compute in FP16 or INT8; returns remarks for the user.

        Args:
            builder: trt.Builder.
            config: trt.IBuilderConfig.
            wanted: fp32, fp16 or int8, from the user.
            in_file: what the ONNX file itself is written in; int8 means Q/DQ nodes, fp16 half tensors.
            calibrator: for INT8 of a file without Q/DQ nodes, or None.
            profile: optimisation profile or None, which the calibration of an open batch size needs.

        Raises:
            RuntimeFailure: the GPU has no INT8, or nothing to calibrate with was given.
        """
        remarks = []
        flags = self.trt.BuilderFlag
        if wanted in ("fp16", "int8") or in_file == "fp16":
            if not builder.platform_has_fast_fp16:
                remarks.append("this GPU has no fast FP16: expect no gain over FP32")
            config.set_flag(flags.FP16)
        if wanted == "int8" or in_file == "int8":
            if not builder.platform_has_fast_int8:
                raise RuntimeFailure("INT8: this GPU does not compute in it (Nano, TX1 and TX2 do not), use FP16")
            config.set_flag(flags.INT8)
            if in_file != "int8":
                if calibrator is None:
                    raise RuntimeFailure(
                        "INT8: the ONNX file has no Q/DQ nodes and there is no calibration cache and no image folder"
                    )
                config.int8_calibrator = calibrator
                if profile is not None:
                    config.set_calibration_profile(profile)
        return remarks


class Dialect84(Dialect82):
    """TensorRT 8.4 (JetPack 5.0.2): memory pools, still bindings."""

    def set_workspace(self, config: TensorRT, nbytes: int) -> None:
        """Limits the scratch memory that a tactic may ask for."""
        config.set_memory_pool_limit(self.trt.MemoryPoolType.WORKSPACE, nbytes)


class Dialect85(Dialect84):
    """TensorRT 8.5, 8.6 (JetPack 5.1, 6.0) and 10 (JetPack 6.1 and later): tensors by name."""

    named_tensors = True


class Dialect11(Dialect85):
    """TensorRT 11: every tensor has the type that the ONNX file gives it, no precision flags, no calibrators."""

    precision_from_file = True

    def network_flags(self) -> int:
        """Returns the flags of create_network."""
        return 1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)

    def set_precision(
        self, builder: TensorRT, config: TensorRT, wanted: str, in_file: str, calibrator: TensorRT, profile: TensorRT
    ) -> List[str]:
        """Checks that the file is written in the wanted precision; there is nothing to set.

        Raises:
            RuntimeFailure: the file is not written in the wanted precision.
        """
        if wanted not in ("fp32", in_file):
            raise RuntimeFailure(
                "{}: this TensorRT takes the precision from the ONNX file, which is {}: export it with --{}".format(
                    wanted.upper(), in_file.upper(), wanted
                )
            )
        return [] if wanted == in_file else ["the ONNX file is {}, so the engine is".format(in_file.upper())]


class DialectRtx(Dialect11):
    """TensorRT for RTX (TensorRT 11 family): its engines run on a range of GPUs, and are built without one."""

    portable = True
    keeps_timings = False  # the calls are there, but without effect since 1.2

    def set_compute_capability(self, config: TensorRT, capability: int) -> None:
        """Chooses the GPUs that the engine is for; by default Ampere and later."""
        known = {name: value for name, value in vars(self.trt.ComputeCapability).items() if name.startswith("SM")}
        name = "SM{}".format(capability)
        if name not in known:
            choices = ", ".join(sorted((other[2:] for other in known), key=int))
            raise RuntimeFailure("compute capability {}: choose one of {}".format(capability, choices))
        config.num_compute_capabilities = 1
        config.set_compute_capability(known[name], 0)


def choose(trt: TensorRT) -> Dialect82:
    """Returns the dialect of an imported `tensorrt` module."""
    if not hasattr(trt.BuilderFlag, "FP16"):
        return DialectRtx(trt) if hasattr(trt.IBuilderConfig, "set_compute_capability") else Dialect11(trt)
    if hasattr(trt.ICudaEngine, "num_io_tensors"):
        return Dialect85(trt)
    if hasattr(trt.IBuilderConfig, "set_memory_pool_limit"):
        return Dialect84(trt)
    return Dialect82(trt)
