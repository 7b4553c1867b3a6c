"""Limits of what a client may send and gets; `docs/serving.md` lists them."""

HEADERS_S = 30.0
"""Seconds in which the headers of a request must arrive, and in which a new connection must send its first."""
MAX_HEADER_BYTES = 1 << 16
MAX_PIPELINED_BYTES = 1 << 16
"""What a client may send while it waits for an answer."""
LINGER_S = 5.0
"""Seconds in which a client may go on sending a request that has been answered."""
MAX_BODY_BYTES = 4 << 20
MAX_BODY_S = 30.0
"""Seconds in which a whole body must arrive."""
MAX_MESSAGES = 2_000
MAX_PARTS = 500
"""Parts of one message."""
MAX_TEXT_CHARACTERS = 1_000_000
MAX_PROMPTS = 256
"""Prompts of one completion request."""
MAX_ANSWERS = 64
"""Answers of one prompt: `n`."""
MAX_ENTRIES = 4_000_000
"""Tokens and log-probabilities of all answers to one request. Each takes 160 bytes until the client has read it."""
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
MAX_TOP_LOGPROBS = 20
MAX_BIASES = 1_024
"""Entries of `logit_bias`."""
MAX_INTEGER = (1 << 63) - 1
SEND_TIMEOUT_S = 60.0
"""A connection whose client reads nothing for so long is closed."""
STREAM_INTERVAL_S = 0.02
"""A stream is written to at most once in this time, after its first token and before its last."""
WHOLE_INTERVAL_S = 0.25
"""How often the tokens of a response that is no stream are joined."""
