"""The process that llama.cpp's server runs in, apart from ours: a crash there ends no conversation with another engine,
and its memory is gone when it is.

Started by `llamacpp.py`, as a file and not as a module, so that it imports nothing of Hanse. It reads one line of JSON
from its standard input, the key among it, which so shows in no list of processes; answers with the server's address on
its standard output; and ends when its input does, however the parent died.
"""

import json
import os
import sys
from typing import Any

_ERRORS_ONLY = 1


def parameters(xllamacpp: Any, settings: dict[str, Any]) -> Any:
    """xllamacpp's parameters for these settings."""
    made = xllamacpp.CommonParams()
    made.model.path = settings["model"]
    made.hostnames = ["127.0.0.1"]
    made.port = 0
    made.api_keys = [settings["key"]]
    made.n_parallel = settings["parallel"]
    made.n_ctx = settings["context"] * settings["parallel"]
    made.kv_unified = False  # every request has the whole context to itself
    made.fit_params = False  # and no less because memory seems short
    made.ctx_shift = False
    made.cache_ram_mib = 0  # up to 8 GB by default; what a slot holds of its last prompt is reused all the same
    made.n_threads_http = settings["parallel"] + 2
    made.cpuparams.n_threads = made.cpuparams_batch.n_threads = settings["threads"]
    if settings["exact"]:
        # Its fused attention is not float32 throughout: logits were off by 0.02, and by 0.00001 without.
        made.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        made.cache_type_k = made.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    # Templates, pages, tools and downloads are not wanted: it is asked by token ids only.
    made.use_jinja = False
    made.chat_template = "chatml"
    made.ui = made.endpoint_slots = made.endpoint_props = False
    made.offline = True
    made.verbosity = _ERRORS_ONLY  # warnings can quote an answer
    return made


def main() -> None:
    """Serve until standard input ends."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever llama.cpp prints is no part of the answer
    settings = json.loads(sys.stdin.readline())
    import xllamacpp

    server = xllamacpp.Server(parameters(xllamacpp, settings))
    answer.write(json.dumps({"address": server.listening_address}) + "\n")
    answer.close()
    sys.stdin.read()
    os._exit(0)  # its threads wait for nobody


if __name__ == "__main__":
    main()
