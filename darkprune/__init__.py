"""darkprune: model surgery for networks in Darknet's .cfg/.weights form.

    import darkprune as dp

    net = dp.load("yolov4.cfg", "yolov4.weights")
    slim = dp.prune(net, dp.PruneSettings(images="photos", recover="lsq", target_macs="0.8"))
    slim.save("slim/")

Every function lies in a module of `darkprune.api` and is imported when it is first used, so that what needs torch or
onnx costs nothing before.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from darkprune.api.bench import BenchResult as BenchResult
    from darkprune.api.bench import BenchSettings as BenchSettings
    from darkprune.api.bench import bench as bench
    from darkprune.api.cliff import CliffResult as CliffResult
    from darkprune.api.cliff import CliffSettings as CliffSettings
    from darkprune.api.cliff import cliff as cliff
    from darkprune.api.compare import CompareResult as CompareResult
    from darkprune.api.compare import compare as compare
    from darkprune.api.compress import CompressResult as CompressResult
    from darkprune.api.compress import compress as compress
    from darkprune.api.conversion.engine import EngineResult as EngineResult
    from darkprune.api.conversion.engine import EngineSettings as EngineSettings
    from darkprune.api.conversion.engine import build_engine as build_engine
    from darkprune.api.conversion.export import ExportResult as ExportResult
    from darkprune.api.conversion.export import ExportSettings as ExportSettings
    from darkprune.api.conversion.export import export as export
    from darkprune.api.conversion.kit import KitResult as KitResult
    from darkprune.api.conversion.kit import KitSettings as KitSettings
    from darkprune.api.conversion.kit import write_kit as write_kit
    from darkprune.api.detect import DetectResult as DetectResult
    from darkprune.api.detect import DetectSettings as DetectSettings
    from darkprune.api.detect import FoundObject as FoundObject
    from darkprune.api.detect import ImageObjects as ImageObjects
    from darkprune.api.detect import detect as detect
    from darkprune.api.evaluate import EvaluateSettings as EvaluateSettings
    from darkprune.api.evaluate import evaluate as evaluate
    from darkprune.api.factorize import FactorizeSettings as FactorizeSettings
    from darkprune.api.factorize import factorize as factorize
    from darkprune.api.init import InitResult as InitResult
    from darkprune.api.init import InitSettings as InitSettings
    from darkprune.api.init import init as init
    from darkprune.api.pair import Pair as Pair
    from darkprune.api.pair import load as load
    from darkprune.api.prune import PruneSettings as PruneSettings
    from darkprune.api.prune import prune as prune
    from darkprune.api.report import ReportResult as ReportResult
    from darkprune.api.report import ReportSettings as ReportSettings
    from darkprune.api.report import report as report
    from darkprune.api.train import distill as distill
    from darkprune.api.train import train as train
    from darkprune.api.verify import VerifyResult as VerifyResult
    from darkprune.api.verify import VerifySettings as VerifySettings
    from darkprune.api.verify import verify as verify
    from darkprune.comparison.settings import CompareSettings as CompareSettings
    from darkprune.compression.settings import CompressSettings as CompressSettings
    from darkprune.compression.summary import NetworkFigures as NetworkFigures
    from darkprune.errors import DarkpruneError as DarkpruneError
    from darkprune.evaluation.metrics.results import EvaluateResult as EvaluateResult
    from darkprune.progress import Progress as Progress
    from darkprune.progress import ProgressEvent as ProgressEvent
    from darkprune.surgery.plan import Plan as Plan
    from darkprune.surgery.result import PruneResult as PruneResult
    from darkprune.surgery.surgery import Surgery as Surgery
    from darkprune.training.result import TrainResult as TrainResult
    from darkprune.training.settings import DistillSettings as DistillSettings
    from darkprune.training.settings import TrainSettings as TrainSettings

__version__ = "0.1.0"

#: public name -> module that defines it
_HOME = {
    "BenchResult": "darkprune.api.bench",
    "BenchSettings": "darkprune.api.bench",
    "CliffResult": "darkprune.api.cliff",
    "CliffSettings": "darkprune.api.cliff",
    "CompareResult": "darkprune.api.compare",
    "CompareSettings": "darkprune.comparison.settings",
    "CompressResult": "darkprune.api.compress",
    "CompressSettings": "darkprune.compression.settings",
    "DarkpruneError": "darkprune.errors",
    "DetectResult": "darkprune.api.detect",
    "DetectSettings": "darkprune.api.detect",
    "DistillSettings": "darkprune.training.settings",
    "EngineResult": "darkprune.api.conversion.engine",
    "EngineSettings": "darkprune.api.conversion.engine",
    "EvaluateResult": "darkprune.evaluation.metrics.results",
    "EvaluateSettings": "darkprune.api.evaluate",
    "ExportResult": "darkprune.api.conversion.export",
    "ExportSettings": "darkprune.api.conversion.export",
    "FactorizeSettings": "darkprune.api.factorize",
    "FoundObject": "darkprune.api.detect",
    "ImageObjects": "darkprune.api.detect",
    "InitResult": "darkprune.api.init",
    "InitSettings": "darkprune.api.init",
    "KitResult": "darkprune.api.conversion.kit",
    "KitSettings": "darkprune.api.conversion.kit",
    "NetworkFigures": "darkprune.compression.summary",
    "Pair": "darkprune.api.pair",
    "Plan": "darkprune.surgery.plan",
    "Progress": "darkprune.progress",
    "ProgressEvent": "darkprune.progress",
    "ReportResult": "darkprune.api.report",
    "ReportSettings": "darkprune.api.report",
    "TrainResult": "darkprune.training.result",
    "TrainSettings": "darkprune.training.settings",
    "PruneResult": "darkprune.surgery.result",
    "PruneSettings": "darkprune.api.prune",
    "Surgery": "darkprune.surgery.surgery",
    "VerifyResult": "darkprune.api.verify",
    "VerifySettings": "darkprune.api.verify",
    "bench": "darkprune.api.bench",
    "build_engine": "darkprune.api.conversion.engine",
    "cliff": "darkprune.api.cliff",
    "compare": "darkprune.api.compare",
    "compress": "darkprune.api.compress",
    "detect": "darkprune.api.detect",
    "distill": "darkprune.api.train",
    "evaluate": "darkprune.api.evaluate",
    "export": "darkprune.api.conversion.export",
    "factorize": "darkprune.api.factorize",
    "init": "darkprune.api.init",
    "load": "darkprune.api.pair",
    "report": "darkprune.api.report",
    "train": "darkprune.api.train",
    "verify": "darkprune.api.verify",
    "write_kit": "darkprune.api.conversion.kit",
    "prune": "darkprune.api.prune",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'darkprune' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # found here the next time
    return value


def __dir__() -> list[str]:
    return __all__
