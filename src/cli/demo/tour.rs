//! Two users run the same program; what of it went where, and whether it should have.

use std::time::Duration;

use pilotlight::client::{Client, Completed, Package};
use pilotlight::invoke::LogProtocol;
use pilotlight::socket::answer::Room;
use pilotlight::socket::logging::{Credentials, Logging};
use pilotlight::socket::request::{Invoke, OPTION_SETTLE_LOGS};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use super::super::fault::Fault;
use super::super::programs;
use super::authority::{Authority, Identity};
use super::receiver::Receiver;

/// Name of the program.
const FUNCTION: &str = "greet";
/// Who invokes it, in order, and with which body.
const INVOKES: [(&str, &str); 3] = [("ada", "Ada"), ("ada", "Ada again"), ("bob", "Bob")];
/// How long a record may take to arrive: the node has said before that it was handed over.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to listen for records that should not arrive.
const SILENCE: Duration = Duration::from_millis(100);

/// A user with a logging service of their own and a credential for it.
pub(super) struct User {
    pub(super) name: &'static str,
    pub(super) receiver: Receiver,
    authority: Authority,
    identity: Identity,
    certificate_name: String,
}

/// A record at a receiver.
pub(super) struct Arrived {
    /// Whose receiver.
    at: &'static str,
    /// Name in the client's certificate, if it is one of the demo's.
    certificate: String,
    /// As it was on the wire.
    pub(super) record: String,
}

/// One invoke and what came of it.
pub(super) struct Visit {
    user: &'static str,
    completed: Completed,
    pub(super) arrivals: Vec<Arrived>,
}

/// Each user, with a receiver that runs.
pub(super) fn users() -> Result<[User; 2], Fault> {
    Ok([user("ada")?, user("bob")?])
}

fn user(name: &'static str) -> Result<User, Fault> {
    let authority = Authority::new(&format!("{name}'s authority"))?;
    let receiver = Receiver::start(&authority, &authority.sign_service()?)?;
    let certificate_name = format!("{name}.example");
    let identity = authority.sign_client(&certificate_name)?;
    Ok(User { name, receiver, authority, identity, certificate_name })
}

/// Deploys the program for each user.
pub(super) fn deploy(client: &mut Client, users: &[User]) -> Result<(), Fault> {
    let package = Package::of_elf(FUNCTION, programs::GREET);
    for user in users {
        client.deploy((user.name, FUNCTION), &package)?;
    }
    Ok(())
}

/// Makes the invokes, each with its user's logging service, and collects what arrives.
pub(super) fn visit(client: &mut Client, users: &[User]) -> Result<Vec<Visit>, Fault> {
    let mut visits = Vec::new();
    for (name, body) in INVOKES {
        for user in users.iter().filter(|user| user.name == name) {
            visits.push(Visit {
                user: user.name,
                completed: invoke(client, user, body)?,
                arrivals: Vec::new(),
            });
        }
    }
    for user in users {
        let mut expected = visits.iter().filter(|visit| visit.user == user.name).count();
        while let Some(arrival) = user.receiver.next(if expected > 0 { PATIENCE } else { SILENCE })
        {
            expected = expected.saturating_sub(1);
            let certificate = certificate_name(users, &arrival.certificate);
            let arrived = Arrived { at: user.name, certificate, record: arrival.record };
            let its_visit = visits.iter_mut().find(|visit| arrived.is_of(&visit.completed));
            let visit = its_visit.ok_or_else(|| {
                Fault::new(format!("a record of no invoke arrived: {}", arrived.record))
            })?;
            visit.arrivals.push(arrived);
        }
    }
    Ok(visits)
}

fn invoke(client: &mut Client, user: &User, body: &str) -> Result<Completed, Fault> {
    let key = user.identity.key_pem();
    let files = [
        ("ca.pem", user.authority.pem.as_bytes()),
        ("cert.pem", user.identity.certificate_pem.as_bytes()),
        ("key.pem", key.as_bytes()),
    ];
    let (mut storage, address) = (Vec::new(), user.receiver.address());
    let host = address.ip().to_string();
    let credentials =
        Credentials::encode(&files, &mut storage).map_err(pilotlight::client::ClientError::from)?;
    Ok(client.invoke(&Invoke {
        user: user.name,
        function: FUNCTION,
        options: OPTION_SETTLE_LOGS,
        timeout_nanos: 0,
        logging: Some(Logging {
            protocol: LogProtocol::SyslogTls,
            host: &host,
            port: address.port(),
            server_name: "",
            credentials,
        }),
        body: body.as_bytes(),
    })?)
}

fn certificate_name(users: &[User], certificate: &CertificateDer<'_>) -> String {
    let owner = users.iter().find(|user| user.identity.certificate == *certificate);
    owner.map_or_else(|| "unknown".to_owned(), |user| user.certificate_name.clone())
}

impl Arrived {
    /// Whether the record names this invoke as its process (RFC 5424, PROCID).
    fn is_of(&self, completed: &Completed) -> bool {
        self.record.split(' ').nth(4) == Some(&completed.invoke.to_string())
    }
}

impl Visit {
    fn answer(&self) -> String {
        String::from_utf8_lossy(&self.completed.response).trim_end().to_owned()
    }

    fn pool(&self) -> &'static str {
        match self.completed.room {
            Room::None => "nowhere",
            Room::Active => "active",
            Room::Warming => "warming",
        }
    }

    /// For a table.
    pub(super) fn row(&self) -> [String; 6] {
        let join = |what: fn(&Arrived) -> String| {
            self.arrivals.iter().map(what).collect::<Vec<_>>().join(", ")
        };
        [
            self.user.to_owned(),
            self.answer(),
            self.completed.outcome.vm.to_string(),
            format!("{} pool", self.pool()),
            join(|arrived| format!("{}'s service", arrived.at)),
            join(|arrived| arrived.certificate.clone()),
        ]
    }

    /// For programs.
    pub(super) fn object(&self) -> Value {
        let arrivals = self.arrivals.iter().map(|arrived| {
            json!({
                "service": arrived.at,
                "certificate": arrived.certificate,
                "record": arrived.record,
            })
        });
        json!({
            "user": self.user,
            "response": self.answer(),
            "vm": self.completed.outcome.vm.to_string(),
            "pool": self.pool(),
            "invoke": self.completed.invoke.to_string(),
            "records": arrivals.collect::<Vec<_>>(),
        })
    }
}

/// Whether everything went where it should have.
pub(super) fn check(visits: &[Visit]) -> Result<(), Fault> {
    for visit in visits {
        let [arrived] = visit.arrivals.as_slice() else {
            return Err(Fault::new(format!(
                "{} log records of {}'s invoke {} arrived, not 1: {}",
                visit.arrivals.len(),
                visit.user,
                visit.completed.invoke,
                visit.completed.log_reason
            )));
        };
        if arrived.at != visit.user || arrived.certificate != format!("{}.example", visit.user) {
            return Err(Fault::new(format!("a log record of {} went astray", visit.user)));
        }
    }
    let [first, second, third] = visits else {
        return Err(Fault::new("an invoke is missing"));
    };
    let vm = |visit: &Visit| visit.completed.outcome.vm;
    if vm(first) != vm(second) || second.completed.room != Room::Active {
        return Err(Fault::new("the second invoke of the same user did not find the user's VM"));
    }
    if vm(third) == vm(first) || third.completed.room != Room::Warming {
        return Err(Fault::new("another user's invoke did not get a VM of its own"));
    }
    Ok(())
}
