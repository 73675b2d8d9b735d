"""The paper: what it prints, our records beside it, statistics, the ledger of its claims."""
