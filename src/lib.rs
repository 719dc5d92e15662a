//! Supervision trees for daemons in microVMs: restart strategies, budgets, links over vsock, adoption.
//!
//! Each daemon runs in a microVM of its own, which the launcher `pepita` boots. A [`tree::Tree`] keeps groups of them up as
//! its [`spec::TreeSpec`] says: what fails is restarted alone or with its siblings, not too soon and not too often, and
//! every decision is an [`observe::Event`]. VMs are no children of this process: when it ends they run on, and the next
//! one takes them over.
//!
//! Begin at [`tree`]; [`config`] reads a specification from a TOML file. The library installs no signal handler and no
//! logger, and reads nothing of its environment but where the launcher is.

pub mod adapter;
pub mod cid;
pub mod config;
pub mod control;
pub mod executor;
pub mod group;
pub mod journal;
pub mod link;
pub mod observe;
pub mod platform;
pub mod policy;
pub mod reply;
pub mod spec;
pub mod tree;
pub mod vm;
