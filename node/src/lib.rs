//! p2pinstd: the node.
