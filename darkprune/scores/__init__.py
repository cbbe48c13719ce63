"""What images say about a channel: sensitivity, Optimal Brain Surgeon, ThiNet, class separation."""
