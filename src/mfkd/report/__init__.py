"""One page that tells a run or a bench: what was asked, what was gained, and what the networks do."""
