//! Who is at the other end of a connection, and for whom it may act. The caller asks the kernel
//! (`SO_PEERCRED`) and the host's user database; the rule is here.

use crate::config::Config;

/// The process at the other end, by its user id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    login: String,
    acts_for: ActsFor,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum ActsFor {
    Everybody,
    /// Its own login, and these.
    Own(Vec<String>),
    /// The kernel does not know who it is.
    Nobody,
}

/// What the rule depends on, beside the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// The node's own user id.
    pub node_uid: u32,
    /// What the kernel reports of a process whose user it cannot translate, because it is in another
    /// user namespace: any of them, so none of them.
    pub overflow_uid: u32,
}

impl Peer {
    /// The peer with user id `uid`. `login` resolves a user id to a login name; a user without one is
    /// known as `uid-<number>`, which no login can be mistaken for by accident.
    ///
    /// Root, the node's own user and `access.operators` act for every user, others for their own
    /// login and for those users whose `uids` they are among.
    #[must_use]
    pub fn new(
        uid: u32,
        host: Host,
        config: &Config,
        login: impl FnOnce(u32) -> Option<String>,
    ) -> Self {
        let login = login(uid).filter(|login| !login.is_empty() && login.len() <= 255);
        let login = login.unwrap_or_else(|| format!("uid-{uid}"));
        let acts_for = if uid == host.overflow_uid {
            ActsFor::Nobody
        } else if uid == 0 || uid == host.node_uid || config.access.operators.contains(&uid) {
            ActsFor::Everybody
        } else {
            let listed = config.users.iter().filter(|(_, user)| user.uids.contains(&uid));
            ActsFor::Own(listed.map(|(name, _)| name.to_string()).collect())
        };
        Self { login, acts_for }
    }

    /// The node itself, under the name its user would have.
    #[must_use]
    pub fn node(login: String) -> Self {
        Self { login, acts_for: ActsFor::Everybody }
    }

    /// The user of requests that name none.
    #[must_use]
    pub fn login(&self) -> &str {
        &self.login
    }

    /// Whether it may act for `user`.
    #[must_use]
    pub fn may_act_for(&self, user: &str) -> bool {
        match &self.acts_for {
            ActsFor::Everybody => true,
            ActsFor::Own(others) => user == self.login || others.iter().any(|other| other == user),
            ActsFor::Nobody => false,
        }
    }

    /// Whether it may act for every user.
    #[must_use]
    pub fn may_act_for_all(&self) -> bool {
        self.acts_for == ActsFor::Everybody
    }

    /// What a peer is told that may not act for somebody.
    #[must_use]
    pub fn refusal(&self, user: &str) -> String {
        match &self.acts_for {
            ActsFor::Nobody => {
                "the kernel does not say who you are: you are the user nobody, or not \
                mapped into the node's user namespace; connect as a user that is"
                    .to_owned()
            }
            ActsFor::Everybody | ActsFor::Own(_) => format!(
                "{} may not act for user {user}; ask the operator (`[users]`), or name no user",
                self.login
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32) -> Peer {
        let text =
            "[access]\noperators = [998]\n[users.ada]\nuids = [2000]\n[users.bob]\nuids = [2000]";
        let config = Config::parse(text).unwrap();
        let host = Host { node_uid: 999, overflow_uid: 65534 };
        Peer::new(uid, host, &config, |uid| (uid == 1000).then(|| "ada".to_owned()))
    }

    #[test]
    fn only_root_the_nodes_user_and_operators_act_for_everybody() {
        for uid in [0, 999, 998] {
            assert!(peer(uid).may_act_for("ada") && peer(uid).may_act_for_all(), "{uid}");
        }
        assert!(peer(1000).may_act_for("ada"));
        assert!(!peer(1000).may_act_for("root") && !peer(1000).may_act_for_all());
        assert!(!peer(1001).may_act_for("ada"));
        assert!(peer(1001).may_act_for("uid-1001"));
    }

    #[test]
    fn users_may_be_widened() {
        let ci = peer(2000);
        assert!(ci.may_act_for("ada") && ci.may_act_for("bob") && ci.may_act_for("uid-2000"));
        assert!(!ci.may_act_for("carol") && !ci.may_act_for_all());
    }

    #[test]
    fn whom_the_kernel_does_not_know_acts_for_nobody() {
        let stranger = peer(65534);
        assert!(!stranger.may_act_for("uid-65534") && !stranger.may_act_for("nobody"));
        assert!(stranger.refusal("x").contains("user namespace"));
        let host = Host { node_uid: 65534, overflow_uid: 65534 };
        let as_nobody = Peer::new(65534, host, &Config::default(), |_| None);
        assert!(!as_nobody.may_act_for_all(), "even if the node is nobody's");
    }
}
