//! Every raw `enif_*` call of the library, behind safe functions.
//!
//! rustler's own resources cannot register a `stop` callback, which `enif_select` needs; so the
//! resource type, the select calls and the monitors are here.

mod resource;
mod select;

pub(crate) use resource::{Handle, Resource, ResourceType, register, self_pid, send_closed};
pub(crate) use select::{Cancelled, Direction, Fd, arm, cancel, stop};
