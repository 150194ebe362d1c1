"""The paper's headline in miniature: training cost to equal quality, with and without a memory."""
