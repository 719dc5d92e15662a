//! Reads parts of the JSON of a status. A part that is missing, as in the answer of another version, is empty.

use serde_json::Value;

/// Returns the items of a list.
pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Returns a text, or `-`.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// Returns the VMs of all groups, each with its group.
pub(super) fn vms(status: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    list(&status["groups"]).iter().flat_map(|group| list(&group["vms"]).iter().map(move |vm| (group, vm)))
}

/// Returns the group and the VM of this name.
pub(super) fn find<'s>(status: &'s Value, name: &str) -> Option<(&'s Value, &'s Value)> {
    vms(status).find(|(_, vm)| vm["name"] == name)
}
