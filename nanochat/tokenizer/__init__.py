"""The vocabulary: byte-pair encoding, its file formats, and the chat format.

1. `bpe` has the `Tokenizer`: encoding, decoding, loading and saving. `training` trains its merges; `text_batches`
   converts texts for the compiled crate; `special_tokens` checks names and ids.
2. `vocabulary_file` checks our own file format. `tiktoken_format` and `huggingface_format` read and write those of
   other programs.
3. `chat` renders conversations to ids with a loss mask.
"""
