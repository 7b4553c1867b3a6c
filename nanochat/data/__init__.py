"""From token ids to training batches.

1. `token_shards` encodes the documents of a raw shard; `document_stats` records statistics of them, from which
   `data_card` computes the data card. `vocabulary_text` is the text that a vocabulary is trained on.
2. `packing` packs token shards into rows of T+1 tokens; `rows` is the file format of packed rows.
3. `mixture` renders conversations with a loss mask, `conversation_rows` packs them. `file_hashes` hashes the local
   files of a mixture, which become part of its key.
4. `row_index` lists the blocks of rows, `order` defines in which order rows are trained on, `blocks` fetches them
   through a local cache, and `loader` yields batches.
"""
