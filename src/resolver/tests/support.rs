//! A resolver, an upstream that says what a test wants, and clients that ask.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsCode;
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::cache::key::Seed;
use crate::cache::store::Budgets;
use crate::cache::{Key, Now, Store};
use crate::config::{self, Config};
use crate::observe::{Counters, Server, ShedReason, Source, Zones};
use crate::resolver::exchange::{Exchange, ExchangeError, Query, Reply};
use crate::resolver::job::{Job, Miss};
use crate::resolver::{Account, Answered, Context, Handle, Resolver, control};
use crate::server::client::{Client, TcpWay, Way};
use crate::server::kept::Kept;
use crate::wire::query::Query as ClientQuery;
use crate::wire::reply::Transport;

/// What an upstream does with a query: waits, then gives this.
pub(super) type Says = (Duration, Result<Vec<u8>, ExchangeError>);

type Speaks = dyn FnMut(&Query) -> Says;

/// An upstream that does as it is told.
#[derive(Clone)]
pub(in crate::resolver) struct Scripted(pub(super) Rc<Script>);

pub(super) struct Script {
    /// What it was asked, in order.
    pub(super) asked: RefCell<Vec<Query>>,
    says: RefCell<Box<Speaks>>,
    pub(super) down: Cell<bool>,
    pub(super) addresses: RefCell<Vec<SocketAddr>>,
    pub(super) opened: Cell<usize>,
}

impl Exchange for Scripted {
    fn exchange(&self, query: &Query) -> impl Future<Output = Result<Reply, ExchangeError>> {
        self.0.asked.borrow_mut().push(query.clone());
        let (wait, outcome) = (self.0.says.borrow_mut())(query);
        async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let truncated = outcome.as_ref().is_ok_and(|message| message[2] & 2 != 0);
            outcome.map(|message| Reply { message, endpoint: "10.96.0.10:53".into(), truncated })
        }
    }

    fn is_down(&self) -> bool {
        self.0.down.get()
    }

    async fn probe(&self) -> bool {
        !self.0.down.get()
    }

    fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        *self.0.addresses.borrow_mut() = addresses;
    }
}

/// What the resolver told of its answers.
#[derive(Default)]
pub(super) struct Told {
    pub(super) sources: RefCell<Vec<Source>>,
    pub(super) sheds: RefCell<Vec<ShedReason>>,
}

impl Account for Rc<Told> {
    fn answered(&self, answered: &Answered<'_>) {
        self.sources.borrow_mut().push(answered.outcome.source());
    }

    fn shed(&self, _: &Client, reason: ShedReason) {
        self.sheds.borrow_mut().push(reason);
    }

    fn refused(&self, _: Server, _: usize) {}
}

/// All of it.
pub(super) struct World {
    pub(super) jobs: mpsc::Sender<Job>,
    pub(super) handle: Handle,
    pub(super) script: Rc<Script>,
    pub(super) store: Arc<Store>,
    pub(super) told: Rc<Told>,
    pub(super) counters: Counters,
}

/// How a client asks.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "they are the query's flag bits")]
pub(super) struct Asks {
    pub(super) from: [u8; 4],
    pub(super) recursion_desired: bool,
    pub(super) edns: bool,
    pub(super) dnssec_ok: bool,
    pub(super) checking_disabled: bool,
}

impl Default for Asks {
    fn default() -> Self {
        Self {
            from: [10, 244, 0, 1],
            recursion_desired: true,
            edns: true,
            dnssec_ok: false,
            checking_disabled: false,
        }
    }
}

/// Runs a test in a `LocalSet` with the clock stopped.
pub(super) fn run<F: Future<Output = ()>>(test: F) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

/// Milliseconds of tokio's clock.
pub(super) fn now() -> Now {
    thread_local!(static START: Instant = Instant::now());
    let since = START.with(|start| Instant::now().duration_since(*start));
    Now(1_000_000 + since.as_millis() as u64)
}

/// A configuration from YAML, over the defaults.
pub(in crate::resolver) fn config(yaml: &str) -> Config {
    config::from_str(yaml, "test").expect("a valid configuration").config
}

/// One zone, all forwarded.
pub(super) const FORWARD: &str = "zones: [{name: '.', forward: {to: ['10.96.0.10']}}]";

impl World {
    pub(super) fn new(yaml: &str, says: impl FnMut(&Query) -> Says + 'static) -> Self {
        let config = config(yaml);
        let script = Rc::new(Script {
            asked: RefCell::default(),
            says: RefCell::new(Box::new(says)),
            down: Cell::new(false),
            addresses: RefCell::default(),
            opened: Cell::new(0),
        });
        let store = Arc::new(Store::new(Budgets { positive: 1 << 25, negative: 1 << 23, failure: 1 << 20 }));
        let told = Rc::new(Told::default());
        let counters = Counters::register(&prometheus::Registry::new()).unwrap();
        let context = Context {
            store: Arc::clone(&store),
            zones: Zones::new(),
            counters: counters.clone(),
            account: Box::new(Rc::clone(&told)),
            clock: now,
        };
        let upstream = Rc::clone(&script);
        let open = move |_: &config::Forward, addresses: Vec<SocketAddr>| {
            upstream.opened.set(upstream.opened.get() + 1);
            *upstream.addresses.borrow_mut() = addresses;
            Scripted(Rc::clone(&upstream))
        };
        let resolver = Resolver::new(&config, context, open).unwrap();
        let (jobs, receiver) = mpsc::channel(16_384);
        let (handle, controls) = control::channel();
        tokio::task::spawn_local(resolver.run(receiver, controls));
        Self { jobs, handle, script, store, told, counters }
    }

    /// Sends a query; the reply arrives at the receiver.
    pub(super) fn send(&self, name: &str, qtype: RecordType, asks: Asks) -> mpsc::Receiver<Vec<u8>> {
        let (writer, replies) = mpsc::channel(1);
        let packet = query_packet(name, qtype, asks);
        let query = ClientQuery::parse(&packet).unwrap();
        let key = Key::of(&query, Seed::of_process());
        let transport = Transport::Tcp { idle_timeout: Duration::from_secs(10) };
        let peer = SocketAddr::from((asks.from, 40_000));
        let client = Client::new(
            &query,
            transport,
            peer,
            now(),
            Way::Tcp(TcpWay { replies: writer, kept: Kept::default(), listener: peer }),
        );
        let kept = self.store.kept(&key);
        let miss = Miss { key, kept, recursion_desired: query.recursion_desired(), client };
        self.jobs.try_send(Job::Miss(Box::new(miss))).unwrap();
        replies
    }

    /// Asks and waits for the reply.
    pub(super) async fn ask_as(&self, name: &str, qtype: RecordType, asks: Asks) -> Message {
        receive(self.send(name, qtype, asks)).await
    }

    pub(super) async fn ask(&self, name: &str, qtype: RecordType) -> Message {
        self.ask_as(name, qtype, Asks::default()).await
    }

    pub(super) fn asked(&self) -> usize {
        self.script.asked.borrow().len()
    }

    /// The script from now on.
    pub(super) fn says(&self, says: impl FnMut(&Query) -> Says + 'static) {
        *self.script.says.borrow_mut() = Box::new(says);
    }

    pub(super) fn last_source(&self) -> Option<Source> {
        self.told.sources.borrow().last().copied()
    }
}

/// Waits for a reply.
pub(super) async fn receive(mut replies: mpsc::Receiver<Vec<u8>>) -> Message {
    let reply = replies.recv().await.expect("a reply");
    Message::from_vec(&reply).expect("a well-formed reply")
}

/// The extended error of a reply.
pub(super) fn extended_error(reply: &Message) -> Option<u16> {
    use hickory_proto::rr::rdata::opt::EdnsOption;
    match reply.edns.as_ref()?.option(EdnsCode::Unknown(15))? {
        EdnsOption::Unknown(_, data) => Some(u16::from_be_bytes([data[0], data[1]])),
        _ => None,
    }
}

fn query_packet(name: &str, qtype: RecordType, asks: Asks) -> Vec<u8> {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = asks.recursion_desired;
    message.metadata.checking_disabled = asks.checking_disabled;
    message.add_query(Question::query(Name::from_ascii(name).unwrap(), qtype));
    if asks.edns || asks.dnssec_ok {
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        edns.set_dnssec_ok(asks.dnssec_ok);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

/// A reply to `query` with this rcode and nothing in it.
pub(super) fn reply_to(query: &Query, rcode: ResponseCode) -> Message {
    use hickory_proto::serialize::binary::BinDecodable;
    let mut message = Message::new(1, MessageType::Response, OpCode::Query);
    message.metadata.response_code = rcode;
    let mut question = Question::query(Name::from_bytes(&query.name).unwrap(), RecordType::from(query.qtype));
    question.set_query_class(query.qclass.into());
    message.add_query(question);
    message
}

pub(super) fn says(message: &Message) -> Says {
    (Duration::ZERO, Ok(message.to_vec().unwrap()))
}

pub(super) fn soa(owner: &str, ttl: u32) -> Record {
    let name = |text: &str| Name::from_ascii(text).unwrap();
    let soa = SOA::new(name("ns.example."), name("admin.example."), 1, 2, 3, 4, ttl);
    Record::from_rdata(name(owner), ttl, RData::SOA(soa))
}

/// One address for every A question, NODATA for the rest.
pub(super) fn address(ttl: u32) -> impl FnMut(&Query) -> Says {
    move |query| {
        let mut reply = reply_to(query, ResponseCode::NoError);
        if RecordType::from(query.qtype) == RecordType::A {
            let owner = reply.queries[0].name().clone();
            reply.add_answer(Record::from_rdata(owner, ttl, RData::A(A::new(10, 0, 0, 1))));
        } else {
            reply.add_authority(soa(".", ttl));
        }
        says(&reply)
    }
}

/// NXDOMAIN for everything.
pub(super) fn nxdomain(ttl: u32) -> impl FnMut(&Query) -> Says {
    move |query| {
        let mut reply = reply_to(query, ResponseCode::NXDomain);
        reply.add_authority(soa(".", ttl));
        says(&reply)
    }
}

/// This rcode for everything.
pub(super) fn rcode(rcode: ResponseCode) -> impl FnMut(&Query) -> Says {
    move |query| says(&reply_to(query, rcode))
}

/// No answer, found out after `wait`.
pub(super) fn timeout(wait: Duration) -> impl FnMut(&Query) -> Says {
    move |_| (wait, Err(ExchangeError::Timeout { endpoint: "10.96.0.10:53".into(), after: wait }))
}

/// The same, only later.
pub(super) fn late(wait: Duration, mut says: impl FnMut(&Query) -> Says) -> impl FnMut(&Query) -> Says {
    move |query| (wait, says(query).1)
}

/// Lets time pass.
pub(super) async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

pub(super) const SECOND: Duration = Duration::from_secs(1);
