//! Host setups beside the system's own disk tools, on loop devices.

mod disks;
mod hardware;
mod images;
mod kills;
mod lab;
mod machine;
mod refusals;
mod starts;
