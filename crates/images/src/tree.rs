//! The file tree of an image, put together from its layers. Knows no file of the host.
//!
//! The rules are those of the OCI image specification ("Image Layer Filesystem Changeset"). What no honest tool makes is
//! refused: a path with `..`, an entry behind a symbolic link of its own layer, a second entry of one name in one layer,
//! a hard link to nowhere.

use std::collections::BTreeMap;

/// The most entries that an image may have.
const ENTRIES_CAP: usize = 1_000_000;

/// The most entries that one directory may have.
const CHILDREN_CAP: usize = 65_000;

/// The longest path, and the longest name in it, in bytes.
const PATH_CAP: usize = 4096;
const NAME_CAP: usize = 255;

/// The most bytes that the paths of all entries may have: they are in memory.
const PATHS_CAP: usize = 256 << 20;

/// The number of symbolic links that a path may lead through, as in the kernel.
const LINKS_CAP: usize = 40;

/// The names by which a layer removes what lower layers have.
const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";
/// The prefix of aufs' own files, which mean nothing elsewhere.
const AUFS: &str = ".wh..wh.";

/// The properties of a file of any kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// The permissions, with the bits set-user-id, set-group-id and sticky.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The time of the last change, in seconds since 1970.
    pub mtime: u64,
    /// The extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// What an entry of a layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file, whose contents lie in the spool.
    File {
        /// The offset of the contents, in bytes.
        at: u64,
        /// The length of the contents, in bytes.
        length: u64,
    },
    /// A symbolic link to this path. It is never followed on the host.
    Symlink(String),
    /// A character device with these numbers.
    CharDevice(u32, u32),
    /// A block device with these numbers.
    BlockDevice(u32, u32),
    /// A named pipe.
    Pipe,
}

/// A file of the tree. Several names may lead to one file (hard links).
#[derive(Debug, Clone)]
pub struct Node {
    /// What the file is.
    pub kind: Kind,
    /// Its properties.
    pub meta: Meta,
    children: BTreeMap<String, Child>,
    /// The length of its path, of which a directory has one.
    length: usize,
}

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
struct Child {
    node: usize,
    /// The last layer that has this entry, or something below it.
    layer: usize,
}

/// The reason why a layer is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A path leads above the root.
    #[error("the path {0:?} has \"..\" in it")]
    Climbs(String),
    /// A path is empty, too long, or has a zero byte.
    #[error("the path {0:?} is none that a file can have")]
    BadPath(String),
    /// An entry lies behind a symbolic link that the same layer has made.
    #[error("{path:?} leads through {link:?}, a symbolic link of the same layer")]
    ThroughLink {
        /// The path of the entry.
        path: String,
        /// The path of the link.
        link: String,
    },
    /// Symbolic links lead above the root, to nothing or in a circle.
    #[error("the symbolic links in {0:?} lead nowhere")]
    LostLink(String),
    /// A layer has two entries of one name.
    #[error("{0:?} is in the layer twice")]
    Duplicate(String),
    /// An entry lies below a file of the same layer.
    #[error("{0:?} lies below a file")]
    BelowFile(String),
    /// A hard link has an absolute target.
    #[error("the hard link {path:?} has the absolute target {target:?}")]
    AbsoluteLink {
        /// The path of the link.
        path: String,
        /// Its target.
        target: String,
    },
    /// A hard link leads to nothing or to a directory.
    #[error("the hard link {path:?} leads to {target:?}, which is no file")]
    BadLink {
        /// The path of the link.
        path: String,
        /// Its target.
        target: String,
    },
    /// There are too many entries.
    #[error("{0:?}: there are more entries than an image may have")]
    TooMany(String),
}

/// The file tree of an image.
#[derive(Debug, Clone)]
pub struct Tree {
    nodes: Vec<Node>,
    layer: usize,
    entries: usize,
    /// The bytes of the paths of all entries.
    paths: usize,
}

impl Default for Tree {
    fn default() -> Self {
        let root = Node { kind: Kind::Directory, meta: directory(), children: BTreeMap::new(), length: 0 };
        Self { nodes: vec![root], layer: 0, entries: 0, paths: 0 }
    }
}

fn directory() -> Meta {
    Meta { mode: 0o755, ..Meta::default() }
}

/// Splits the path of an entry into names. `./` and `/` before it mean nothing.
fn names(path: &str) -> Result<Vec<&str>, Refusal> {
    let bad = || Refusal::BadPath(path.chars().take(200).collect());
    if path.len() > PATH_CAP || path.contains('\0') {
        return Err(bad());
    }
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    if names.contains(&"..") {
        return Err(Refusal::Climbs(path.to_owned()));
    }
    if names.iter().any(|name| name.len() > NAME_CAP) {
        return Err(bad());
    }
    Ok(names)
}

impl Tree {
    /// Begins the next layer.
    pub fn next_layer(&mut self) {
        self.layer += 1;
    }

    /// Adds an entry of the present layer. Whiteouts remove what lower layers have.
    ///
    /// # Errors
    /// When the layer is refused.
    pub fn add(&mut self, path: &str, kind: Kind, meta: Meta) -> Result<(), Refusal> {
        let names = names(path)?;
        let Some((name, parents)) = names.split_last() else {
            // The entry is the root itself.
            if kind != Kind::Directory {
                return Err(Refusal::BadPath(path.to_owned()));
            }
            self.nodes[0].meta = meta;
            return Ok(());
        };
        if *name == OPAQUE {
            let parent = self.parent(path, parents)?;
            self.remove_lower(parent);
            return Ok(());
        }
        if name.starts_with(AUFS) {
            return Ok(());
        }
        if let Some(gone) = name.strip_prefix(WHITEOUT) {
            if matches!(gone, "" | "." | "..") {
                return Err(Refusal::BadPath(path.to_owned()));
            }
            let parent = self.parent(path, parents)?;
            self.whiteout(parent, gone);
            return Ok(());
        }
        let parent = self.parent(path, parents)?;
        let is_directory = kind == Kind::Directory;
        match self.nodes[parent].children.get(*name).copied() {
            Some(there) if self.nodes[there.node].kind == Kind::Directory && is_directory => {
                self.nodes[there.node].meta = meta;
                self.set_child(parent, name, there.node);
                Ok(())
            }
            Some(there) if there.layer == self.layer => Err(Refusal::Duplicate(path.to_owned())),
            Some(_) | None => {
                let node = self.make(path, kind, meta)?;
                self.put(path, parent, name, node)
            }
        }
    }

    /// Adds a hard link of the present layer.
    ///
    /// # Errors
    /// When the layer is refused.
    pub fn link(&mut self, path: &str, target: &str) -> Result<(), Refusal> {
        if target.starts_with('/') {
            return Err(Refusal::AbsoluteLink { path: path.to_owned(), target: target.to_owned() });
        }
        let bad = || Refusal::BadLink { path: path.to_owned(), target: target.to_owned() };
        let node = names(target)?
            .into_iter()
            .try_fold(0, |at, name| self.nodes[at].children.get(name).map(|child| child.node));
        let node = node.filter(|node| self.nodes[*node].kind != Kind::Directory).ok_or_else(bad)?;
        let names = names(path)?;
        let (name, parents) = names.split_last().ok_or_else(bad)?;
        if name.starts_with(WHITEOUT) {
            return Err(Refusal::BadPath(path.to_owned()));
        }
        let parent = self.parent(path, parents)?;
        match self.nodes[parent].children.get(*name) {
            Some(there) if there.layer == self.layer => Err(Refusal::Duplicate(path.to_owned())),
            Some(_) | None => self.put(path, parent, name, node),
        }
    }

    fn make(&mut self, path: &str, kind: Kind, meta: Meta) -> Result<usize, Refusal> {
        if self.nodes.len() > ENTRIES_CAP {
            return Err(Refusal::TooMany(path.to_owned()));
        }
        self.nodes.push(Node { kind, meta, children: BTreeMap::new(), length: 0 });
        Ok(self.nodes.len() - 1)
    }

    /// Gives a file a name in a directory. The name may be a part of the target of a link, and a path through links is longer
    /// than the one that the layer has.
    fn put(&mut self, path: &str, parent: usize, name: &str, node: usize) -> Result<(), Refusal> {
        let length = self.nodes[parent].length + 1 + name.len();
        if length > PATH_CAP || name.len() > NAME_CAP || name.contains('\0') {
            return Err(Refusal::BadPath(path.chars().take(200).collect()));
        }
        (self.entries, self.paths) = (self.entries + 1, self.paths + length);
        let is_full = self.nodes[parent].children.len() >= CHILDREN_CAP;
        if is_full || self.entries > ENTRIES_CAP || self.paths > PATHS_CAP {
            return Err(Refusal::TooMany(path.to_owned()));
        }
        self.nodes[node].length = length;
        self.set_child(parent, name, node);
        Ok(())
    }

    fn set_child(&mut self, parent: usize, name: &str, node: usize) {
        let child = Child { node, layer: self.layer };
        self.nodes[parent].children.insert(name.to_owned(), child);
    }

    /// Returns the directory of an entry. A directory that is missing is made; a symbolic link of a lower layer is
    /// followed within the root.
    fn parent(&mut self, path: &str, parents: &[&str]) -> Result<usize, Refusal> {
        let mut ancestors = vec![0];
        let mut left: Vec<String> = parents.iter().rev().map(|name| (*name).to_owned()).collect();
        let (mut links, mut walked) = (0, Vec::new());
        while let Some(name) = left.pop() {
            match name.as_str() {
                "" | "." => continue,
                // Only the target of a link has it. Above the root is the root, as in the kernel.
                ".." => {
                    if ancestors.len() > 1 {
                        ancestors.pop();
                        walked.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let at = *ancestors.last().expect("the root stays");
            let child = self.nodes[at].children.get(&name).copied();
            let next = match child {
                None => {
                    let node = self.make(path, Kind::Directory, directory())?;
                    self.put(path, at, &name, node)?;
                    node
                }
                Some(child) => match &self.nodes[child.node].kind {
                    Kind::Directory => {
                        self.set_child(at, &name, child.node);
                        child.node
                    }
                    Kind::Symlink(target) => {
                        links += 1;
                        if child.layer == self.layer {
                            walked.push(name);
                            return Err(Refusal::ThroughLink {
                                path: path.to_owned(),
                                link: walked.join("/"),
                            });
                        }
                        if links > LINKS_CAP {
                            return Err(Refusal::LostLink(path.to_owned()));
                        }
                        if target.starts_with('/') {
                            ancestors.truncate(1);
                            walked.clear();
                        }
                        left.extend(target.split('/').rev().map(str::to_owned));
                        continue;
                    }
                    Kind::File { .. } | Kind::CharDevice(..) | Kind::BlockDevice(..) | Kind::Pipe => {
                        if child.layer == self.layer {
                            return Err(Refusal::BelowFile(path.to_owned()));
                        }
                        // A directory of an upper layer hides the file of a lower one.
                        let node = self.make(path, Kind::Directory, directory())?;
                        self.put(path, at, &name, node)?;
                        node
                    }
                },
            };
            ancestors.push(next);
            walked.push(name);
        }
        Ok(*ancestors.last().expect("the root stays"))
    }

    /// Removes a name as far as lower layers have it.
    fn whiteout(&mut self, parent: usize, name: &str) {
        match self.nodes[parent].children.get(name).copied() {
            Some(child) if child.layer < self.layer => {
                self.nodes[parent].children.remove(name);
            }
            Some(child) => self.remove_lower(child.node),
            None => {}
        }
    }

    /// Removes what lower layers have below a directory.
    fn remove_lower(&mut self, top: usize) {
        let mut left = vec![top];
        while let Some(at) = left.pop() {
            let layer = self.layer;
            self.nodes[at].children.retain(|_, child| child.layer == layer);
            let own = self.nodes[at].children.values().map(|child| child.node);
            left.extend(own.filter(|node| self.nodes[*node].kind == Kind::Directory));
        }
    }

    /// Returns every name of the finished tree with the number of its file, a directory before what is in it. The root
    /// comes first, with the path `/`. A number that was there before is a hard link.
    pub fn walk(&self) -> Vec<(String, usize)> {
        let (mut all, mut left) = (vec![("/".to_owned(), 0)], vec![(String::new(), 0)]);
        while let Some((path, at)) = left.pop() {
            for (name, child) in &self.nodes[at].children {
                let path = format!("{path}/{name}");
                all.push((path.clone(), child.node));
                if self.nodes[child.node].kind == Kind::Directory {
                    left.push((path, child.node));
                }
            }
        }
        all
    }

    /// Returns the number of files that were ever added, at least one for each that is left.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Returns a file by its number.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number]
    }

    /// Returns the file at a path, without following links.
    pub fn find(&self, path: &str) -> Option<&Node> {
        let names = names(path).ok()?;
        let found = names
            .into_iter()
            .try_fold(0, |at, name| self.nodes[at].children.get(name).map(|child| child.node));
        found.map(|number| &self.nodes[number])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: Kind = Kind::File { at: 0, length: 0 };

    /// Applies layers of lines: `d PATH`, `f PATH`, `l PATH TARGET` (symbolic), `h PATH TARGET` (hard).
    fn tree(layers: &[&[&str]]) -> Result<Tree, Refusal> {
        let mut tree = Tree::default();
        for layer in layers {
            tree.next_layer();
            for line in *layer {
                let words: Vec<&str> = line.split(' ').collect();
                match words[..] {
                    ["d", path] => tree.add(path, Kind::Directory, directory())?,
                    ["f", path] => tree.add(path, FILE, Meta::default())?,
                    ["l", path, target] => tree.add(path, Kind::Symlink(target.into()), Meta::default())?,
                    ["h", path, target] => tree.link(path, target)?,
                    _ => panic!("{line}"),
                }
            }
        }
        Ok(tree)
    }

    fn paths(layers: &[&[&str]]) -> String {
        let mut paths: Vec<String> =
            tree(layers).expect("good layers").walk().into_iter().map(|(p, _)| p).collect();
        paths.sort();
        paths.join(" ")
    }

    #[test]
    fn a_whiteout_removes_what_lower_layers_have_and_nothing_of_its_own_layer() {
        let lower: &[&str] = &["d a", "f a/old", "d a/sub", "f a/sub/old", "f b"];
        assert_eq!(paths(&[lower, &["f .wh.b", "f a/.wh.sub"]]), "/ /a /a/old");
        assert_eq!(paths(&[lower, &["f a/.wh..wh..opq", "f a/new"]]), "/ /a /a/new /b");
        assert_eq!(
            paths(&[lower, &["f a/sub/new", "f a/new", "f a/.wh..wh..opq"]]),
            "/ /a /a/new /a/sub /a/sub/new /b"
        );
        assert_eq!(
            paths(&[lower, &["d a/sub", "f a/sub/new", "f a/.wh.sub"]]),
            "/ /a /a/old /a/sub /a/sub/new /b"
        );
        assert_eq!(paths(&[lower, &["f .wh.nothing", "f .wh..wh.plnk"]]), paths(&[lower]));
        assert_eq!(paths(&[lower, &["f .wh.a"], &["f a"]]), "/ /a /b");
    }

    #[test]
    fn an_upper_layer_replaces_what_it_names_and_a_directory_keeps_its_contents() {
        assert_eq!(paths(&[&["d a", "f a/x"], &["d a"]]), "/ /a /a/x");
        assert_eq!(paths(&[&["d a", "f a/x"], &["f a"]]), "/ /a");
        assert_eq!(paths(&[&["f a"], &["f a/x"]]), "/ /a /a/x");
        let node =
            |layers: &[&[&str]], path: &str| tree(layers).expect("good").find(path).map(|n| n.kind.clone());
        assert_eq!(node(&[&["d a"], &["l a b"]], "a"), Some(Kind::Symlink("b".into())));
    }

    #[test]
    fn a_link_of_a_lower_layer_is_followed_within_the_root_only() {
        let lower: &[&str] = &["d usr", "d usr/lib", "l lib usr/lib", "l up ../../../usr", "l abs /usr/lib"];
        assert!(paths(&[lower, &["f lib/x"]]).contains("/usr/lib/x"));
        assert!(paths(&[lower, &["f up/y"]]).contains("/usr/y"));
        assert!(paths(&[lower, &["f abs/z"]]).contains("/usr/lib/z"));
        assert_eq!(
            tree(&[&["l a b", "l b a"], &["f a/x"]]).expect_err("a circle"),
            Refusal::LostLink("a/x".into())
        );
    }

    #[test]
    fn hard_links_lead_to_one_file_and_outlive_its_first_name() {
        let tree = tree(&[&["f a", "h b a", "d c", "h c/d ./b"], &["f .wh.a"]]).expect("good");
        let numbers: Vec<usize> =
            tree.walk().into_iter().filter(|(p, _)| p != "/" && p != "/c").map(|(_, n)| n).collect();
        assert!(numbers.len() == 2 && numbers[0] == numbers[1], "{numbers:?}");
    }

    #[test]
    fn what_no_honest_tool_makes_is_refused() {
        let refused = |layers: &[&[&str]]| tree(layers).expect_err("refused");
        for path in ["../x", "a/../../x", "/../x", ".."] {
            assert_eq!(refused(&[&[&format!("f {path}")]]), Refusal::Climbs(path.into()));
        }
        assert_eq!(refused(&[&["f a", "h b ../a"]]), Refusal::Climbs("../a".into()));
        let through = |path: &str| Refusal::ThroughLink { path: path.into(), link: "etc".into() };
        assert_eq!(refused(&[&["l etc /etc", "f etc/passwd"]]), through("etc/passwd"));
        assert_eq!(refused(&[&["l etc ..", "d etc/x"]]), through("etc/x"));
        assert_eq!(refused(&[&["l etc ..", "f etc/.wh.x"]]), through("etc/.wh.x"));
        for second in ["f a", "l a b", "h a c", "d a"] {
            assert_eq!(refused(&[&["f c", "f a", second]]), Refusal::Duplicate("a".into()), "{second}");
        }
        assert_eq!(refused(&[&["d a", "f a"]]), Refusal::Duplicate("a".into()));
        assert_eq!(refused(&[&["f a", "f a/b"]]), Refusal::BelowFile("a/b".into()));
        let absolute = Refusal::AbsoluteLink { path: "b".into(), target: "/etc/shadow".into() };
        assert_eq!(refused(&[&["h b /etc/shadow"]]), absolute);
        for target in ["nothing", "d", "."] {
            let bad = Refusal::BadLink { path: "b".into(), target: target.into() };
            assert_eq!(refused(&[&["d d", &format!("h b {target}")]]), bad);
        }
        assert!(matches!(refused(&[&["f .wh."]]), Refusal::BadPath(_)));
        assert!(matches!(refused(&[&[&format!("f {}", "x".repeat(256))]]), Refusal::BadPath(_)));
        assert!(matches!(refused(&[&["f ./"]]), Refusal::BadPath(_)));
    }

    #[test]
    fn a_link_makes_no_path_and_no_name_that_a_file_cannot_have() {
        let below = |target: &str| tree(&[&[&format!("l a {target}")], &["f a/x"]]).map(|_| ());
        let deep = |depth: usize| ["d"; 2047][..depth].join("/");
        let bad = Err(Refusal::BadPath("a/x".into()));
        assert_eq!(
            (below(&"n".repeat(255)), below(&"n".repeat(256)), below("a\0b")),
            (Ok(()), bad.clone(), bad)
        );
        assert_eq!(below(&deep(2047)), Ok(()));
        // A link within that directory leads further down.
        let link = format!("l a/b {}", deep(2047));
        let refused =
            tree(&[&[&format!("l a {}", deep(2047))], &[&link], &["f a/b/x"]]).expect_err("too deep");
        assert!(matches!(refused, Refusal::BadPath(_)), "{refused}");
    }

    #[test]
    fn the_paths_of_an_image_have_a_bound_together() {
        let mut tree = Tree::default();
        tree.next_layer();
        let dir = vec!["d".repeat(255); 15].join("/");
        let added =
            (0..=PATHS_CAP / 3800).try_for_each(|n| tree.add(&format!("{dir}/{n}"), FILE, Meta::default()));
        assert!(matches!(added, Err(Refusal::TooMany(_))), "{added:?}");
    }

    #[test]
    fn hard_links_count_as_entries() {
        let mut tree = Tree::default();
        tree.next_layer();
        tree.add("f", FILE, Meta::default()).expect("a file");
        let added = (0..=ENTRIES_CAP).try_for_each(|n| tree.link(&format!("{}/{n}", n / 50_000), "f"));
        assert!(matches!(added, Err(Refusal::TooMany(_))));
    }

    proptest! {
        /// Whatever layers say, every name of the tree is below the root, and every directory comes before its entries.
        #[test]
        fn no_layer_breaks_the_tree(steps in proptest::collection::vec((0..6, "[ab./]{0,6}", "[ab./]{0,6}"), 0..40)) {
            let mut tree = Tree::default();
            tree.next_layer();
            for (what, path, target) in steps {
                let _ = match what {
                    0 => tree.add(&path, Kind::Directory, directory()),
                    1 => tree.add(&path, FILE, Meta::default()),
                    2 => tree.add(&path, Kind::Symlink(target), Meta::default()),
                    3 => tree.link(&path, &target),
                    4 => tree.add(&format!("{path}/.wh.a"), FILE, Meta::default()),
                    _ => { tree.next_layer(); Ok(()) }
                };
            }
            let mut seen = std::collections::BTreeSet::new();
            for (path, number) in tree.walk() {
                let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
                prop_assert!(path == "/" || parent.is_empty() || seen.contains(parent), "{}", path);
                prop_assert!(path.split('/').all(|name| name != ".."), "{}", path);
                if tree.node(number).kind == Kind::Directory {
                    seen.insert(path);
                }
            }
        }
    }
}
