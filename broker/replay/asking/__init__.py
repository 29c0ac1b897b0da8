"""The questions that boards and auditors ask, answered from a casebook, with the entries that prove each line beside it."""
