//! Loads from the pods' namespace: many clients at a steady rate or all at once, and one that floods.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RData;
use serde::{Deserialize, Serialize};

use super::WILDCARD;
use super::actor::Actor;
use crate::support::client::{A, Query};
use crate::support::heartbeat::Heartbeat;
use crate::support::netns::Netns;
use crate::support::upstream::address_of;

/// What to ask. Each client has one socket for its whole life, as a pod's resolver that keeps it has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Whom to ask.
    pub(crate) target: SocketAddr,
    /// The clients' address.
    pub(crate) source: Ipv4Addr,
    /// How many clients take turns.
    pub(crate) clients: usize,
    /// Lookups in all.
    pub(crate) lookups: usize,
    /// Time between two lookups, whatever becomes of the earlier ones.
    pub(crate) every: Duration,
    /// Names; `#` stands for the lookup's number. They take turns.
    pub(crate) names: Vec<String>,
    /// `#` starts again from 0 here.
    pub(crate) modulo: usize,
    /// When a lookup is lost.
    pub(crate) patience: Duration,
}

/// What became of a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// The right address.
    Right,
    /// SERVFAIL or REFUSED.
    Failed,
    /// Anything else that came.
    Wrong,
    /// Nothing came.
    Lost,
}

/// One lookup.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lookup {
    /// Its number, which decides its name.
    pub(crate) number: usize,
    /// When it was asked, from the load's start.
    pub(crate) asked: Duration,
    /// How long it took.
    pub(crate) took: Duration,
    /// What became of it.
    pub(crate) outcome: Outcome,
    /// Whether the machine itself stood still meanwhile or shortly before: then its time says nothing.
    pub(crate) disturbed: bool,
}

/// A load under way.
pub(crate) struct Load {
    actor: Actor,
    start: Instant,
    limit: Duration,
}

impl Load {
    /// Starts it.
    pub(crate) fn start(pods: &Netns, plan: &Plan) -> Self {
        let actor = Actor::start(pods, "load", plan);
        let limit = plan.every * plan.lookups as u32 + plan.patience + Duration::from_secs(20);
        Self { actor, start: Instant::now(), limit }
    }

    /// The time since its start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Waits until so much time has passed since its start.
    pub(crate) fn until(&self, moment: Duration) {
        std::thread::sleep(moment.saturating_sub(self.start.elapsed()));
    }

    /// Waits for its end.
    pub(crate) fn lookups(self) -> Vec<Lookup> {
        let line = self.actor.0.read_line_within("@", self.limit).expect("the load ends in time");
        let rows: Vec<Row> = serde_json::from_str(&line).expect("the load wrote it");
        let lookup = |(number, (asked, took, outcome, disturbed))| Lookup {
            number,
            asked: Duration::from_micros(asked),
            took: Duration::from_micros(took),
            outcome,
            disturbed,
        };
        rows.into_iter().enumerate().map(lookup).collect()
    }
}

/// A client that floods.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Flood {
    /// Whom to ask.
    pub(crate) target: SocketAddr,
    /// Its address.
    pub(crate) source: Ipv4Addr,
    /// Unique names a second.
    pub(crate) rate: u32,
    /// How long.
    pub(crate) time: Duration,
}

/// What a flood came to.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Flooded {
    /// Queries sent.
    pub(crate) sent: u64,
    /// Replies NOERROR.
    pub(crate) answered: u64,
    /// Replies SERVFAIL or REFUSED.
    pub(crate) failed: u64,
}

/// Runs a load and describes each lookup.
pub(super) fn run(plan: &Plan, ready: impl FnOnce()) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let heartbeat = Heartbeat::start();
    let (start, mut rows) = tokio::task::LocalSet::new().block_on(&runtime, ask_all(plan, ready));
    let stalls = heartbeat.stop();
    for (asked, took, _, disturbed) in &mut rows {
        *disturbed = stalls.disturbed(start + Duration::from_micros(*asked), Duration::from_micros(*took));
    }
    if !stalls.total().is_zero() {
        eprintln!("the machine stood still for {:.0?} beside the load", stalls.total());
    }
    serde_json::to_string(&rows).expect("plain data")
}

struct Client {
    socket: tokio::net::UdpSocket,
    /// By id: number and time of what is under way.
    waiting: RefCell<HashMap<u16, (usize, Instant)>>,
}

type Rows = Rc<RefCell<Vec<Row>>>;

/// When a lookup was asked and how long it took, in microseconds, what became of it, and whether it was disturbed.
type Row = (u64, u64, Outcome, bool);

async fn ask_all(plan: &Plan, ready: impl FnOnce()) -> (Instant, Vec<Row>) {
    let patience = plan.patience.as_micros() as u64;
    let rows: Rows = Rc::new(RefCell::new(vec![(0, patience, Outcome::Lost, false); plan.lookups]));
    let plan = Rc::new(plan.clone());
    let mut clients = Vec::new();
    for _ in 0..plan.clients {
        let socket = tokio::net::UdpSocket::bind((plan.source, 0)).await.expect("a socket");
        socket.connect(plan.target).await.expect("a route");
        let client = Rc::new(Client { socket, waiting: RefCell::default() });
        tokio::task::spawn_local(receive(Rc::clone(&client), Rc::clone(&rows), Rc::clone(&plan)));
        clients.push(client);
    }
    let queries: Vec<_> = (0..plan.lookups).map(|number| Query::new(&name(&plan, number), A)).collect();
    ready();
    let (start, start_by_tokio) = (Instant::now(), tokio::time::Instant::now());
    for (number, mut query) in queries.into_iter().enumerate() {
        if !plan.every.is_zero() {
            tokio::time::sleep_until(start_by_tokio + plan.every * number as u32).await;
        }
        let client = &clients[number % clients.len()];
        while client.waiting.borrow().contains_key(&query.id) {
            query.id = query.id.wrapping_add(1);
        }
        let now = Instant::now();
        client.waiting.borrow_mut().insert(query.id, (number, now));
        rows.borrow_mut()[number].0 = now.duration_since(start).as_micros() as u64;
        // An ICMP error of an earlier query shows up here; this one is sent again by no resolver either.
        let _ = client.socket.send(&query.bytes()).await;
    }
    let last = tokio::time::Instant::now();
    while last.elapsed() < plan.patience
        && clients
            .iter()
            .any(|client| client.waiting.borrow().values().any(|(_, asked)| asked.elapsed() < plan.patience))
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (start, rows.take())
}

async fn receive(client: Rc<Client>, rows: Rows, plan: Rc<Plan>) {
    let mut buffer = [0; 4096];
    loop {
        let Ok(length) = client.socket.recv(&mut buffer).await else { continue };
        let now = Instant::now();
        let reply = Message::from_vec(&buffer[..length]).expect("a well-formed reply");
        let Some((number, asked)) = client.waiting.borrow_mut().remove(&reply.metadata.id) else { continue };
        let took = now.duration_since(asked);
        if took < plan.patience {
            let row = &mut rows.borrow_mut()[number];
            (row.1, row.2) = (took.as_micros() as u64, judge(&reply, &name(&plan, number)));
        }
    }
}

fn name(plan: &Plan, number: usize) -> String {
    plan.names[number % plan.names.len()].replace('#', &(number % plan.modulo).to_string())
}

fn judge(reply: &Message, name: &str) -> Outcome {
    let asked = reply.queries.first().map(|query| query.name().to_ascii());
    if asked.as_deref().map(|asked| asked.trim_end_matches('.')) != Some(name) {
        return Outcome::Wrong;
    }
    let right = [WILDCARD, address_of(name)];
    match (reply.metadata.response_code, &*reply.answers) {
        (ResponseCode::NoError, [record]) => match &record.data {
            RData::A(address) if right.contains(&address.0) => Outcome::Right,
            _ => Outcome::Wrong,
        },
        (ResponseCode::ServFail | ResponseCode::Refused, []) => Outcome::Failed,
        _ => Outcome::Wrong,
    }
}

/// Floods and says what came of it.
pub(super) fn flood(plan: &Flood, ready: impl FnOnce()) -> String {
    let socket = UdpSocket::bind((plan.source, 0)).expect("a socket");
    socket.connect(plan.target).expect("a route");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout above 0");
    let replies = socket.try_clone().expect("a descriptor");
    let reader = std::thread::spawn(move || {
        let mut flooded = Flooded::default();
        let mut buffer = [0; 4096];
        while let Ok(length) = replies.recv(&mut buffer) {
            let rcode = buffer[..length].get(3).map(|flags| flags & 0x0f);
            match rcode {
                Some(0) => flooded.answered += 1,
                _ => flooded.failed += 1,
            }
        }
        flooded
    });
    let template = Query::new("f0000000.flood.faults.example", A).bytes();
    ready();
    let start = Instant::now();
    let mut sent = 0_u32;
    while start.elapsed() < plan.time {
        let due = (start.elapsed().as_secs_f64() * f64::from(plan.rate)) as u32;
        while sent < due {
            let mut query = template.clone();
            query[..2].copy_from_slice(&(sent as u16).to_be_bytes());
            // Behind the header, the label's length and its letter.
            query[14..21].copy_from_slice(format!("{sent:07}").as_bytes());
            let _ = socket.send(&query);
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut flooded = reader.join().expect("the reader does not panic");
    flooded.sent = u64::from(sent);
    serde_json::to_string(&flooded).expect("plain data")
}

/// Figures of lookups.
#[derive(Debug)]
pub(crate) struct Figures {
    /// How many.
    pub(crate) lookups: usize,
    /// Without the right answer.
    pub(crate) failed: usize,
    /// With an answer that is neither right nor an error.
    pub(crate) wrong: usize,
    /// Over 250 ms, of those that nothing disturbed.
    pub(crate) slow: usize,
    /// Quantiles of the time that these took.
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
}

impl Figures {
    /// Of these lookups; says them on stderr.
    pub(crate) fn of<'a>(what: &str, lookups: impl IntoIterator<Item = &'a Lookup>) -> Self {
        let lookups: Vec<_> = lookups.into_iter().collect();
        let count = |of: &dyn Fn(&Lookup) -> bool| lookups.iter().filter(|lookup| of(lookup)).count();
        let timed = || lookups.iter().filter(|lookup| !lookup.disturbed);
        let mut took: Vec<_> = timed().map(|lookup| lookup.took).collect();
        took.sort_unstable();
        let quantile = |share: f64| {
            let index = ((took.len() as f64 * share) as usize).min(took.len().saturating_sub(1));
            took.get(index).copied().unwrap_or_default()
        };
        let figures = Self {
            lookups: lookups.len(),
            failed: count(&|lookup| lookup.outcome != Outcome::Right),
            wrong: count(&|lookup| lookup.outcome == Outcome::Wrong),
            slow: timed().filter(|lookup| lookup.took > LONG).count(),
            p50: quantile(0.5),
            p99: quantile(0.99),
            max: quantile(1.0),
        };
        let Self { lookups, failed, wrong, slow, p50, p99, max } = &figures;
        eprintln!(
            "{what}: {lookups} lookups, {failed} failed ({wrong} wrong); of {} that nothing disturbed {slow} over 250 ms; \
             p50 {p50:.1?}, p99 {p99:.1?}, slowest {max:.1?}",
            took.len()
        );
        figures
    }
}

/// What a lookup may take.
pub(crate) const LONG: Duration = Duration::from_millis(250);
