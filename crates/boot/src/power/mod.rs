//! Power: the controllers of machines, what is asked of them, and what to do about their answers.
//!
//! [`controller`] and [`action`] are the words, [`run`] decides (without clock, socket or process), a [`driver`] talks to one kind of
//! controller, and [`drive`] joins them. Everything that talks blocks, each call within the time that it was given. Nothing here
//! keeps a secret on disk or gives one to a program as an argument, and no raw command of a controller is ever passed through.
//!
//! A controller's word is never the proof that a machine boots: who starts a machine from the network gives a time
//! within which the machine itself must be seen ([`run::Plan::expect`]).

pub mod action;
pub mod controller;
pub mod credentials;
pub mod drive;
pub mod driver;
pub mod error;
pub mod hook;
pub mod inband;
pub mod ipmi;
pub mod libvirt;
pub mod qmp;
pub mod redfish;
pub mod run;
pub mod wol;
