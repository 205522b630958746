//! Who is at the other end of a connection, and for whom it may act. The caller asks the kernel
//! (`SO_PEERCRED`); the rule is here.

/// The process at the other end, by its user id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    login: String,
    acts_for_all: bool,
}

impl Peer {
    /// The peer with user id `uid` of a node that runs as `node_uid`. `login` resolves a user id
    /// to a login name; a user without one is known as `uid-<number>`, which no login can be
    /// mistaken for by accident.
    ///
    /// Root, the node's own user and `operators` act for every user, others only for their own
    /// login.
    #[must_use]
    pub fn new(
        uid: u32,
        node_uid: u32,
        operators: &[u32],
        login: impl FnOnce(u32) -> Option<String>,
    ) -> Self {
        let login = login(uid).filter(|login| !login.is_empty() && login.len() <= 255);
        Self {
            login: login.unwrap_or_else(|| format!("uid-{uid}")),
            acts_for_all: uid == 0 || uid == node_uid || operators.contains(&uid),
        }
    }

    /// The user of requests that name none.
    #[must_use]
    pub fn login(&self) -> &str {
        &self.login
    }

    /// Whether it may act for `user`.
    #[must_use]
    pub fn may_act_for(&self, user: &str) -> bool {
        self.acts_for_all || user == self.login
    }
}

/// The login name of a user id in the text of `/etc/passwd`.
#[must_use]
pub fn login_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let login = fields.next()?;
        let number: u32 = fields.nth(1)?.parse().ok()?;
        (number == uid).then(|| login.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n";

    #[test]
    fn only_root_and_the_nodes_user_act_for_others() {
        let peer = |uid| Peer::new(uid, 999, &[998], |uid| login_in(PASSWD, uid));
        assert!(peer(0).may_act_for("ada"));
        assert!(peer(999).may_act_for("ada"));
        assert!(peer(998).may_act_for("ada"));
        assert!(peer(1000).may_act_for("ada"));
        assert!(!peer(1000).may_act_for("root"));
        assert!(!peer(1001).may_act_for("ada"));
        assert!(peer(1001).may_act_for("uid-1001"));
    }
}
