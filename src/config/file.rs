//! The structure of the file: the keys that each place may have, and the values that a VM inherits. Checks of several
//! keys together are made in `check`.

use super::reader::{Keys, Layer, Table};
use crate::spec::keys::{Keyed, Row, Scope};
use crate::spec::{GroupSpec, TreeSpec, VmSpec};
use std::ops::Range;

/// A `[[group]]` or a `[[group.vm]]`.
#[derive(Debug)]
pub(super) struct Section<'t> {
    /// The place of its header.
    pub(super) at: Range<usize>,
    /// The name in messages: `group "web"`, or `group "web" vm "api"`.
    pub(super) called: String,
    /// The name as it is written, right or wrong.
    pub(super) name: Option<&'t str>,
    /// The keys that are written in it; for a VM, these stand above the keys that the VM inherits.
    pub(super) layer: Layer<'t>,
    /// The VMs of a group.
    pub(super) vms: Vec<Section<'t>>,
}

/// The whole file.
#[derive(Debug)]
pub(super) struct File<'t> {
    pub(super) supervisor: Layer<'t>,
    /// `[platform.pepita]` and `[defaults.*]`.
    pub(super) defaults: Layer<'t>,
    pub(super) groups: Vec<Section<'t>>,
}

/// Returns the keys that a VM may inherit.
pub(super) fn inherited() -> impl Iterator<Item = &'static Row<VmSpec>> {
    VmSpec::ROWS.iter().filter(|row| row.scope != Scope::Vm)
}

/// The keys of which each names a root.
pub(super) const ROOTS: [&str; 2] = ["rootfs_path", "image"];

fn keys<S: 'static>(prefix: &str, rows: impl Iterator<Item = &'static Row<S>>) -> Keys {
    rows.map(|row| (format!("{prefix}{}", row.name), Some(row.kind))).collect()
}

/// Reads the file.
pub(super) fn read<'t>(root: &Table<'t>) -> File<'t> {
    let mut root_keys = keys("platform.pepita.", inherited().filter(|row| row.scope == Scope::Machine));
    root_keys.extend(keys("supervisor.", TreeSpec::ROWS.iter()));
    root_keys.extend(keys("defaults.", inherited().filter(|row| row.scope == Scope::Policy)));
    root_keys.extend([("group".to_owned(), None), ("group.vm".to_owned(), None)]);
    let mut group_keys = keys("", GroupSpec::ROWS.iter());
    group_keys.extend(keys("", inherited()));
    group_keys.push(("vm".to_owned(), None));
    let vm_keys = keys("", VmSpec::ROWS.iter());

    let written = root.read(&root_keys);
    let layer = |table| Layer::default().with_table(&written, table);
    let defaults = layer("platform.pepita").with_table(&written, "defaults");
    let section = |table: Table<'t>, layer, vms| Section {
        name: table.peek("name"),
        at: table.at,
        called: table.owner,
        layer,
        vms,
    };
    let group = |table: Table<'t>| {
        let own = table.read(&group_keys);
        let vm = |table: Table<'t>| {
            let mut layer = table.read(&vm_keys);
            for lower in [&own, &defaults] {
                // A VM has one root: what is written nearer to it hides the other one.
                let has_root = ROOTS.iter().any(|name| layer.has(name));
                for row in inherited().filter(|row| !(has_root && ROOTS.contains(&row.name))) {
                    layer.inherit(row.name, lower);
                }
            }
            section(table, layer, Vec::new())
        };
        let vms = table.each("vm").into_iter().map(vm).collect();
        section(table, own, vms)
    };
    let groups = root.each("group").into_iter().map(group).collect();
    File { supervisor: layer("supervisor"), defaults, groups }
}
