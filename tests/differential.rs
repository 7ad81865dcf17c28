//! The same queries, sound and broken, to nodens, to its upstream (nsd) and to another forwarder (unbound): every difference
//! is explained by a rule that has a name, or is a bug.
//!
//! 5,000 queries by default; `DIFFERENTIAL=100000` in the environment asks more, `DIFFERENTIAL_SEED=7` others.

mod support {
    pub mod client;
    pub mod loopback;
    pub mod need;
    pub mod nodens;
    pub mod nsd;
    pub mod shape;
    pub mod unbound;
    pub mod wait;
}

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use hickory_proto::op::Message;

use support::client::{self, Edns, Query, RD, Tcp, Udp};
use support::need;
use support::nodens::{Nodens, zone_dot};
use support::nsd::{CLUSTER, EXTERNAL, Nsd};
use support::shape::{self, Asked, Refusal, Shape};
use support::unbound::Unbound;
use support::wait::seconds;

/// Threads that ask, each its share of the queries: they mostly wait for what stays silent.
const THREADS: u64 = 32;

#[test]
fn every_difference_to_nsd_and_unbound_has_an_explanation() {
    if !need::programs(&["nsd", "unbound"]) {
        return;
    }
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    let total = number("DIFFERENTIAL").unwrap_or(5000);
    let seed = number("DIFFERENTIAL_SEED").unwrap_or(1);

    let nsd = Nsd::start(&[EXTERNAL, CLUSTER]);
    let nodens = Nodens::start(&format!(
        "listen: {{workers: 1}}\ncache: {{rotate: false}}\nlimits: {{client_share: 100%}}\n{}",
        zone_dot(nsd.address(), "tcp")
    ));
    let unbound = Unbound::forwarding_to(nsd.address());
    let servers = Servers { nodens: nodens.address(), nsd: nsd.address(), unbound: unbound.address() };
    let tally = Mutex::new(Tally::default());
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (servers, tally) = (&servers, &tally);
            scope.spawn(move || {
                let mut random = Random(seed.wrapping_mul(0x9e37_79b9) ^ thread << 32);
                for _ in 0..total / THREADS {
                    let query = random.query();
                    let seen = servers.ask(&query);
                    let judged = judge(servers, &query, &seen);
                    tally.lock().unwrap().add(&query, &seen, judged);
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap();
    println!("{total} queries, seed {seed}");
    for (explanation, count) in &tally.explained {
        println!("{count:8}  {explanation}");
    }
    assert!(
        tally.unexplained.is_empty(),
        "{} unexplained, such as\n{}",
        tally.unexplained.len(),
        tally.examples()
    );
    assert_eq!(nodens.count("nodens_panics_total", &[]), 0);
    assert_eq!(nodens.stop(), Some(0));
}

/// Where each is asked.
struct Servers {
    nodens: SocketAddr,
    nsd: SocketAddr,
    unbound: SocketAddr,
}

/// What each replied.
#[derive(Debug, Clone)]
struct Seen {
    nodens: Outcome,
    nsd: Outcome,
    unbound: Outcome,
}

/// What of a reply is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Silence,
    Reply(Reply),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Reply {
    flags: u16,
    rcode: u16,
    truncated: bool,
    question: Option<Vec<u8>>,
    counts: [u16; 4],
    answers: BTreeSet<String>,
    authorities: BTreeSet<String>,
    has_opt: bool,
    length: usize,
}

#[derive(Debug, Default)]
struct Tally {
    explained: BTreeMap<&'static str, u64>,
    unexplained: Vec<String>,
}

type Judgement = Result<[&'static str; 2], String>;

impl Servers {
    fn ask(&self, query: &[u8]) -> Seen {
        let silent = matches!(Shape::of(query), Shape::Refused(Refusal::Ignored));
        let patience = if silent { Duration::from_millis(30) } else { seconds(8) };
        Seen {
            nodens: over_udp(self.nodens, query, patience),
            // What comes over TCP is whole; nodens asks over TCP, too.
            nsd: over_tcp(self.nsd, query),
            unbound: over_udp(self.unbound, query, Duration::from_millis(400)),
        }
    }
}

fn over_udp(server: SocketAddr, query: &[u8], patience: Duration) -> Outcome {
    let socket = Udp::connect(server);
    socket.send(query);
    socket.receive_within(patience).map_or(Outcome::Silence, |reply| Outcome::of(&reply))
}

fn over_tcp(server: SocketAddr, query: &[u8]) -> Outcome {
    let mut connection = Tcp::connect(server);
    let patience = Some(Duration::from_millis(400));
    connection.stream().set_read_timeout(patience).expect("a timeout above 0");
    connection.send(query);
    match connection.try_receive() {
        Ok(Some(reply)) => Outcome::of(&reply),
        Ok(None) | Err(_) => Outcome::Silence,
    }
}

impl Outcome {
    fn of(bytes: &[u8]) -> Self {
        let word = |at: usize| bytes.get(at..at + 2).map_or(0, |word| u16::from_be_bytes([word[0], word[1]]));
        let counts = [4, 6, 8, 10].map(word);
        let flags = word(2);
        let shown = |records: &[hickory_proto::rr::Record]| {
            let record = |record: &hickory_proto::rr::Record| {
                format!("{} {:?} {:?}", record.name.to_lowercase(), record.dns_class, record.data)
                    .to_lowercase()
            };
            records.iter().map(record).collect()
        };
        let message = Message::from_vec(bytes).ok();
        let rcode = message.as_ref().map_or(flags & 0xf, |message| u16::from(message.metadata.response_code));
        Self::Reply(Reply {
            flags: flags & 0xfdf0,
            rcode,
            truncated: flags & client::TC != 0,
            question: (counts[0] == 1).then(|| shape::question_of(bytes)).flatten().map(<[u8]>::to_vec),
            counts,
            answers: message.as_ref().map(|message| shown(&message.answers)).unwrap_or_default(),
            authorities: message.as_ref().map(|message| shown(&message.authorities)).unwrap_or_default(),
            has_opt: message.is_some_and(|message| message.edns.is_some()),
            length: bytes.len(),
        })
    }

    /// Whether they say the same to a client: rcode and answers.
    fn says_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Silence, Self::Silence) => true,
            (Self::Reply(one), Self::Reply(two)) => one.rcode == two.rcode && one.answers == two.answers,
            _ => false,
        }
    }

    fn rcode(&self) -> Option<u16> {
        match self {
            Self::Silence => None,
            Self::Reply(reply) => Some(reply.rcode),
        }
    }
}

impl Tally {
    fn add(&mut self, query: &[u8], seen: &Seen, judged: Judgement) {
        match judged {
            Ok(explanations) => {
                for explanation in explanations {
                    *self.explained.entry(explanation).or_default() += 1;
                }
            }
            Err(what) => self.unexplained.push(format!("{what}\n  query {query:02x?}\n  {seen:#?}")),
        }
    }

    fn examples(&self) -> String {
        self.unexplained.iter().take(5).cloned().collect::<Vec<_>>().join("\n")
    }
}

/// The explanations of how nodens differs from nsd and from unbound, or what cannot be explained.
fn judge(servers: &Servers, query: &[u8], seen: &Seen) -> Judgement {
    match Shape::of(query) {
        Shape::Refused(refusal) => {
            refused_as_it_should_be(query, refusal, &seen.nodens)?;
            let against = |other: &Outcome, name| {
                if seen.nodens.says_the_same(other) { "nsd, unbound: the same" } else { name }
            };
            Ok([against(&seen.nsd, refusal.against_nsd()), against(&seen.unbound, refusal.against_unbound())])
        }
        Shape::Asked(asked) => {
            let Outcome::Reply(reply) = &seen.nodens else { return Err("nodens does not answer".to_owned()) };
            sound(query, &asked, reply)?;
            Ok([against_nsd(servers, &asked, seen, reply)?, against_unbound(&asked, seen, reply)?])
        }
    }
}

/// Whether nodens refuses the query with the rcode the rule says, and sends nothing else along.
fn refused_as_it_should_be(query: &[u8], refusal: Refusal, nodens: &Outcome) -> Result<(), String> {
    let Some(rcode) = refusal.rcode() else {
        return if *nodens == Outcome::Silence { Ok(()) } else { Err(format!("{refusal:?} was answered")) };
    };
    let Outcome::Reply(reply) = nodens else { return Err(format!("{refusal:?} was not answered")) };
    let opcode = u16::from_be_bytes([query[2], query[3]]) & 0x7800;
    if reply.rcode != rcode || reply.answers.len() + reply.authorities.len() > 0 {
        return Err(format!("{refusal:?} should have rcode {rcode} and nothing else"));
    }
    if reply.flags & 0xf800 != 0x8000 | opcode {
        return Err(format!("{refusal:?}: QR and opcode are {:04x}", reply.flags));
    }
    Ok(())
}

/// What holds for every answer, whatever the upstream says.
fn sound(query: &[u8], asked: &Asked, reply: &Reply) -> Result<(), String> {
    let flags = u16::from_be_bytes([query[2], query[3]]);
    let expected = client::QR | client::RA | flags & (RD | client::CD);
    if reply.flags != expected {
        return Err(format!("flags are {:04x}, not {expected:04x}", reply.flags));
    }
    if reply.question.as_deref() != Some(asked.question()) {
        return Err("the question did not come back as it was".to_owned());
    }
    if reply.has_opt != asked.payload.is_some() {
        return Err("an OPT where none belongs, or none where one does".to_owned());
    }
    if reply.length > asked.limit() {
        return Err(format!("{} bytes to a client that takes {}", reply.length, asked.limit()));
    }
    if reply.truncated && reply.counts[2..] != [0, u16::from(reply.has_opt)] {
        return Err("a truncated reply with more than answers".to_owned());
    }
    Ok(())
}

fn against_nsd(servers: &Servers, asked: &Asked, seen: &Seen, reply: &Reply) -> Result<&'static str, String> {
    if seen.nodens.says_the_same(&seen.nsd) && !reply.truncated {
        return Ok("nsd, unbound: the same");
    }
    if asked.is_special() {
        return Ok("nsd: RFC 6761 and its kin: a special-use name is answered on the node");
    }
    // nodens asks with a query of its own: without the client's odd flags, options, records and trailing bytes.
    let own = Query {
        id: 7,
        flags: RD,
        name: asked.name.clone(),
        qtype: asked.qtype,
        qclass: asked.qclass,
        edns: None,
    };
    let own = own.flags(asked.flags & (RD | client::CD) | client::AD);
    let own = own.edns(Edns { flags: if asked.dnssec_ok { 0x8000 } else { 0 }, ..Edns::default() });
    let canonical = over_tcp(servers.nsd, &own.bytes());
    if reply.truncated {
        let Outcome::Reply(whole) = &canonical else {
            return Err("nsd does not answer nodens' own query".to_owned());
        };
        // nodens' OPT may be missing from nsd's reply, and names are compressed a little differently.
        return if !reply.answers.is_subset(&whole.answers) {
            Err("TC, and records that nsd does not have".to_owned())
        } else if whole.length + 11 + whole.length / 10 > asked.limit() {
            Ok("nsd: RFC 9715: too large for the client: TC and the records that fit")
        } else {
            Err(format!("TC, but {} bytes fit into {}", whole.length, asked.limit()))
        };
    }
    if seen.nodens.says_the_same(&canonical) {
        return Ok("nsd: it judges what nodens does not pass on (flags, options, records, bytes behind)");
    }
    if matches!(canonical.rcode(), Some(1 | 16)) && reply.rcode == 2 {
        return Ok("nsd: FORMERR or BADVERS to nodens' own query is SERVFAIL to the client");
    }
    if canonical == Outcome::Silence && reply.rcode == 2 {
        return Ok("nsd: silence is SERVFAIL to the client");
    }
    Err(format!("nsd says otherwise; to nodens' own query {canonical:#?}"))
}

fn against_unbound(asked: &Asked, seen: &Seen, reply: &Reply) -> Result<&'static str, String> {
    let Outcome::Reply(unbound) = &seen.unbound else {
        return Ok("unbound: it does not answer at all");
    };
    if seen.nodens.says_the_same(&seen.unbound) {
        return Ok("nsd, unbound: the same");
    }
    if asked.is_special() || asked.is_local_to_unbound() {
        return Ok("unbound: each has its own list of special-use names");
    }
    if asked.flags & RD == 0 && unbound.rcode == 5 {
        return Ok("unbound: it refuses queries without RD");
    }
    if reply.truncated || unbound.truncated {
        return Ok("unbound: what fits differs, since it leaves out records or not");
    }
    if asked.qclass != 1 {
        return Ok("unbound: it does not forward every class");
    }
    // In its refusals the upper bits of the rcode are what stood in the client's own OPT.
    if matches!(unbound.rcode & 0xf, 1 | 4 | 5) && (128..=255).contains(&asked.qtype) {
        return Ok("unbound: it refuses meta types (RFC 6895 §3.1)");
    }
    if unbound.rcode == 1 || unbound.rcode == 16 {
        return Ok("unbound: it is stricter with what stands behind the question");
    }
    if unbound.rcode == 2 && matches!(reply.rcode, 4 | 5) {
        return Ok("unbound: an upstream's REFUSED or NOTIMP is SERVFAIL");
    }
    if unbound.rcode == 2 && reply.rcode == 0 && asked.is_below_a_cut() {
        return Ok("unbound: a referral from a forwarder is lame");
    }
    if unbound.rcode == 2 && reply.answers.iter().any(|record| record.contains("cname")) {
        return Ok("unbound: it follows a CNAME where the upstream did not, and fails");
    }
    if asked.qtype == client::ANY {
        return Ok("unbound: it answers ANY from what it has");
    }
    Err("unbound says otherwise".to_owned())
}

/// A small generator of our own, so that a seed means the same for ever (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A query, sound in half of all cases; then bent.
    fn query(&mut self) -> Vec<u8> {
        let name = self.name();
        let mut query = Query { id: self.next() as u16, ..Query::new(&name, self.qtype()) };
        if self.one_in(8) {
            query.flags = self.next() as u16 & 0x01ff & !0xf;
        }
        if self.one_in(20) {
            query.qclass = self.pick(&[0, 2, 3, 4, 254, 255, 1000]);
        }
        if !self.one_in(3) {
            let mut edns = Edns {
                payload: self.pick(&[0, 100, 512, 513, 700, 1232, 1400, 4096, 65_535]),
                ..Edns::default()
            };
            edns.flags = self.pick(&[0, 0, 0x8000, 0x8000, 0x4000, 0xffff, 1]);
            for _ in 0..self.pick(&[0, 0, 0, 1, 2, 5]) {
                let code = self.pick(&[3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 100, 65_001]);
                let length = self.below(20);
                edns.options.push((code, (0..length).map(|_| self.next() as u8).collect()));
            }
            if self.one_in(30) {
                edns.version = self.next() as u8;
            }
            query.edns = Some(edns);
        }
        let mut bytes = query.bytes();
        if self.one_in(2) {
            for _ in 0..=self.below(3) {
                self.bend(&mut bytes);
            }
        }
        bytes
    }

    fn bend(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let at = self.below(bytes.len());
        match self.below(8) {
            0 => bytes[at] = self.next() as u8,
            1 => bytes[at] ^= 1 << self.below(8),
            2 => bytes.truncate(at),
            3 => bytes.extend((0..self.below(30)).map(|_| 0_u8).collect::<Vec<_>>()),
            4 => bytes.insert(at, self.next() as u8),
            5 => drop(bytes.remove(at)),
            // The counts of the header, which is where most of the parsing is decided.
            6 if bytes.len() > 12 => bytes[4 + self.below(8)] = self.pick(&[0, 1, 1, 2, 255]),
            _ => {
                let opt = Edns::default().bytes();
                bytes.extend(opt);
                if bytes.len() > 12 {
                    bytes[11] = bytes[11].wrapping_add(1);
                }
            }
        }
    }

    fn name(&mut self) -> String {
        let known = [
            "www",
            "v4",
            "v6",
            "mixed",
            "alias",
            "chain1",
            "chain2",
            "dangling",
            "outside",
            "zero",
            "long",
            "private",
            "https",
            "loc",
            "naptr",
            "ptr",
            "srv",
            "hinfo",
            "wild",
            "x.wild",
            "a.b.wild",
            "sub",
            "x.sub",
            "below",
            "empty.below",
            "large",
            "huge",
            "full",
            "ns",
            "mail",
            "nx",
            "a.nx",
            "",
        ];
        let cluster = [
            "kubernetes.default.svc",
            "kube-dns.kube-system.svc",
            "web.shop.svc",
            "external.shop.svc",
            "pods.shop.svc",
            "_https._tcp.kubernetes.default.svc",
            "dns-version",
            "svc",
            "nx.svc",
            "s3.load.svc",
        ];
        let others = [
            ".",
            "org",
            "local",
            "localhost",
            "a.localhost",
            "x.test",
            "x.invalid",
            "x.onion",
            "x.alt",
            "www.elsewhere.org",
            "1.0.0.127.in-addr.arpa",
            "1.0.96.10.in-addr.arpa",
            "1.1.254.169.in-addr.arpa",
            "resolver.arpa",
        ];
        let name = match self.below(20) {
            0..11 => format!("{}.example.org", self.pick(&known)),
            11..16 => format!("{}.cluster.local", self.pick(&cluster)),
            16..18 => self.pick(&others).to_owned(),
            18 => (0..=self.below(12))
                .map(|_| format!("{:x}", self.next() & 0xfff))
                .collect::<Vec<_>>()
                .join("."),
            _ => format!("{}.example.org", "label.".repeat(self.below(30))),
        };
        let mut letters = |letter: char| if self.one_in(3) { letter.to_ascii_uppercase() } else { letter };
        let mixed = name.len() % 3 == 0;
        name.chars().map(|letter| if mixed { letters(letter) } else { letter }).collect()
    }

    fn qtype(&mut self) -> u16 {
        let usual = [1, 1, 1, 28, 28, 28, 5, 6, 2, 12, 15, 16, 33, 65, 255, 257];
        let others = [
            0, 3, 10, 13, 24, 29, 35, 39, 41, 43, 46, 47, 48, 64, 99, 128, 200, 249, 250, 251, 252, 253, 254,
            1000, 65_280, 65_535,
        ];
        match self.below(10) {
            0 => self.next() as u16,
            1 | 2 => self.pick(&others),
            _ => self.pick(&usual),
        }
    }
}
