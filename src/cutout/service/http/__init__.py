"""What every request and answer passes: the server, its limits, who may ask, and what a refusal looks like."""
