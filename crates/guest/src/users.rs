//! Resolves a user in the texts of passwd(5) and group(5), as `docker run --user` does.

use serde::{Deserialize, Serialize};

/// The user and the groups of a program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ids {
    /// The user.
    pub(crate) uid: u32,
    /// The group.
    pub(crate) gid: u32,
    /// The supplementary groups.
    pub(crate) groups: Vec<u32>,
}

/// A user of the image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct User {
    /// The numbers.
    pub(crate) ids: Ids,
    /// The name; empty for a number that the image does not know.
    pub(crate) name: String,
    /// The home directory; empty when the image does not say.
    pub(crate) home: String,
}

/// The highest number means "no change" to the kernel.
const RESERVED: u32 = u32::MAX;

/// Resolves `NAME`, `UID`, `NAME:GROUP` and so on. A number needs no entry. Supplementary groups are those that name the
/// user, unless a group is given.
///
/// # Errors
/// A sentence, when a name is in no entry.
pub(crate) fn resolve(wanted: &str, passwd: &str, group: &str) -> Result<User, String> {
    let (user, wanted_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted, None),
    };
    let entry = passwd.lines().find_map(|line| Entry::read(line).filter(|entry| entry.is(user)));
    let mut found = match (entry, number(user)) {
        (Some(entry), _) => User {
            ids: Ids { uid: entry.uid, gid: entry.gid, groups: Vec::new() },
            name: entry.name.to_owned(),
            home: entry.home.to_owned(),
        },
        (None, Some(uid)) => User { ids: Ids { uid, ..Ids::default() }, ..User::default() },
        (None, None) => return Err(format!("user {user:?} is not in the image's /etc/passwd")),
    };
    match wanted_group {
        Some(wanted) => {
            let known = group.lines().find_map(|line| Group::read(line).filter(|group| group.name == wanted));
            let gid = known.map(|group| group.gid).or_else(|| number(wanted));
            found.ids.gid =
                gid.ok_or_else(|| format!("group {wanted:?} is not in the image's /etc/group"))?;
        }
        None if !found.name.is_empty() => {
            let of_user = group.lines().filter_map(Group::read).filter(|group| group.has(&found.name));
            found.ids.groups = of_user.map(|group| group.gid).collect();
        }
        None => {}
    }
    Ok(found)
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number != RESERVED)
}

/// A line of passwd(5).
struct Entry<'t> {
    name: &'t str,
    uid: u32,
    gid: u32,
    home: &'t str,
}

impl<'t> Entry<'t> {
    fn read(line: &'t str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (number(fields.next()?)?, number(fields.next()?)?);
        Some(Self { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    }

    fn is(&self, user: &str) -> bool {
        self.name == user || number(user) == Some(self.uid)
    }
}

/// A line of group(5).
struct Group<'t> {
    name: &'t str,
    gid: u32,
    members: &'t str,
}

impl<'t> Group<'t> {
    fn read(line: &'t str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        Some(Self { name, gid: number(fields.next()?)?, members: fields.next().unwrap_or_default() })
    }

    fn has(&self, user: &str) -> bool {
        self.members.split(',').any(|member| member.trim() == user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# no entry\nredis:x:101:102::/var/lib/redis:/bin/false\n\
                          odd:x:many:1::/:\nshort:x:7\nbare:x:8:9\n";
    const GROUP: &str =
        "root:x:0:\nredis:x:102:\nssl-cert:x:103:redis,nginx\nlog:x:104: redis\nodd:x:one:redis\nno\n";

    fn ids(wanted: &str) -> Result<(u32, u32, Vec<u32>), String> {
        resolve(wanted, PASSWD, GROUP).map(|user| (user.ids.uid, user.ids.gid, user.ids.groups))
    }

    #[test]
    fn names_and_numbers_are_resolved_as_a_container_does() {
        for (wanted, expected) in [
            ("redis", (101, 102, vec![103, 104])),
            ("101", (101, 102, vec![103, 104])),
            ("redis:ssl-cert", (101, 103, vec![])),
            ("redis:7", (101, 7, vec![])),
            ("999", (999, 0, vec![])),
            ("999:redis", (999, 102, vec![])),
            ("root", (0, 0, vec![])),
            ("bare", (8, 9, vec![])),
        ] {
            assert_eq!(ids(wanted), Ok(expected), "{wanted}");
        }
        let user = resolve("101", PASSWD, GROUP).expect("known");
        assert_eq!((user.name.as_str(), user.home.as_str()), ("redis", "/var/lib/redis"));
    }

    #[test]
    fn a_name_that_the_image_does_not_have_is_named() {
        for (wanted, word) in [
            ("nobody", "\"nobody\""),
            ("odd", "\"odd\""),
            ("redis:wheel", "\"wheel\""),
            ("4294967295", "4294967295"),
            ("-1", "-1"),
            ("redis:4294967295", "4294967295"),
        ] {
            let why = ids(wanted).expect_err(wanted);
            assert!(why.contains(word), "{why}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(wanted in ".{0,20}", passwd in "[a-z0-9:\n]{0,80}", group in "[a-z0-9:,\n]{0,80}") {
            let _ = resolve(&wanted, &passwd, &group);
        }
    }
}
