"""What is observed while a run trains: metrics, throughput, loss spikes, incidents, trackers."""
