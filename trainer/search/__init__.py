"""What is searched and how: lanes, restarts, the trajectory, evaluation. Pure state, no sockets."""
