"""How a model can be run: the words of the options and what they mean. Read without torch."""

EXECUTIONS = {
    "subnet": "keeps only what the selection pays for",
    "dense": "dense gradients, masked: nothing is saved (for comparison)",
}
COUNTS = {
    "paper": "the paper's unit: selected weights and activations (eq. 4)",
    "everything": "all that is kept behind the first selected layer counts against the budget too",
}
BATCH_NORMS = {
    "frozen": "running statistics, kept as they are: what the budget really covers",
    "train": "batch statistics, running statistics updated: the paper's way",
}
RECOMPUTE = {
    "none": "nothing is computed again: torch's own layer norm, attention and GELU keep what they keep",
    "layers": "each layer norm's input is kept; queries, keys, values, probabilities and GELU's input are made from it",
    "blocks": "as layers, and of each block's two layer norms only one keeps its input: attention runs again as a "
    "whole",
}
