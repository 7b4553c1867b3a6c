"""Tasks: conversations to train on, and questions to evaluate.

1. `registry` finds a task by its name. `conversation` has the types that all tasks share.
2. Public datasets: `arc`, `mmlu`, `gsm8k`, `smoltalk`, read by `hub_rows`. Generated: `world`, `spelling`, `identity`.
3. `own_conversations` reads the user's files. `chat_rows` converts each row to a conversation, with `row_reader` (the
   forms of a row), `messages` (the forms of a message) and `fields` (all other fields).
"""
