//! The operations on VMs: complete a request, launch, follow, destroy. Prints nothing and knows no command-line
//! options.

pub(crate) mod container;
pub(crate) mod destroy;
pub(crate) mod exec;
pub(crate) mod follow;
mod jail;
pub(crate) mod launch;
pub(crate) mod probe;
pub(crate) mod resolve;
pub(crate) mod shares;
pub(crate) mod tap;
pub(crate) mod usage;
