from .manifest import Manifest as Manifest
from .model import CompressedModel as CompressedModel
from .size_report import Report as Report
