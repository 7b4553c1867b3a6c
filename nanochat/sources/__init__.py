"""Where raw text comes from: sources are listed, fetched, checked, and split into training and validation.

1. `shard_list` turns a `DataConfig` into the shards of a run. It uses `listing` (which files a source has), `snapshots`
   (what the store recorded about it), `small_files` (combines many small files) and `validation_split`.
2. `listing` reads folders (`local_files`), HTTP (`http_files`), S3 and fsspec (`remote_files`) and the Hugging Face Hub
   (`hub`). `file_names` and `file_selection` decide which files are data; `checksums` has their expected hashes.
3. `download` fetches and checks one shard (`retry`, `content_encoding`), and `shard_writer` writes it.
4. `documents` reads Parquet, JSON (`json_records`) and text; `file_contents` opens files by their first
   bytes.
"""
