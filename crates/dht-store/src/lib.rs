//! Cells: admission, merge, persistence, views, replication.
