//! The control API: its types, and the client for the node's unix socket.
