"""Native code: names of machine addresses, chains of calls, small libraries built where needed, batched kernels."""

from tracestore.native.build import build_library, cache_folder, find_compiler
from tracestore.native.call_stack import CallStack, Place, place_names
from tracestore.native.callback_library import CallbackLibrary, load_callback_library, read_arguments
from tracestore.native.elf import ElfFile
from tracestore.native.hooks import KINDS, Hook, interposer_source
from tracestore.native.kernel import Kernel, ThreadTiming, load_kernel, thread_scaling
from tracestore.native.kernel_library import KernelShape
from tracestore.native.symbols import demangle, describe, loaded_module, module_at, short_name

__all__ = [
    "KINDS",
    "CallStack",
    "CallbackLibrary",
    "ElfFile",
    "Hook",
    "Kernel",
    "KernelShape",
    "Place",
    "ThreadTiming",
    "build_library",
    "cache_folder",
    "demangle",
    "describe",
    "find_compiler",
    "interposer_source",
    "load_callback_library",
    "load_kernel",
    "loaded_module",
    "module_at",
    "place_names",
    "read_arguments",
    "short_name",
    "thread_scaling",
]
