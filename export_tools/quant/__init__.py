"""Weight formats shared by every exporter: how a linear layer lies on disk and in the graph."""

from export_tools.quant.float32 import Float32
from export_tools.quant.formats import Activation, QuantPlan, WeightFormat
from export_tools.quant.int8 import Int8Rows, quantize_rows, quantized_input
from export_tools.quant.native import GatedFormat, NativeRows, native_plan
from export_tools.quant.nbits import NBits, quantize_blocks
from export_tools.quant.rows import ArrayRows, Rows, StackedRows
from export_tools.quant.variants import VARIANTS, VariantSpec, variant_spec

__all__ = [
    "VARIANTS",
    "Activation",
    "ArrayRows",
    "Float32",
    "GatedFormat",
    "Int8Rows",
    "NBits",
    "NativeRows",
    "QuantPlan",
    "Rows",
    "StackedRows",
    "VariantSpec",
    "WeightFormat",
    "native_plan",
    "quantize_blocks",
    "quantize_rows",
    "quantized_input",
    "variant_spec",
]
