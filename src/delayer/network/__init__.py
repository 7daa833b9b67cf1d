"""What a network is to us: blocks and points, how it is called, what its blocks hand on, what lies inside a block."""
