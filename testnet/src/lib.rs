//! Clusters in network namespaces: demo, scenarios, benchmarks.
