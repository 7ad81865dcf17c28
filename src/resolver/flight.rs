//! Lookups on their way: one per question, however many clients wait for it, and bounds on all of them.
//!
//! Decisions only: nothing here waits, sends or reads a clock.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::zone::Zone;
use crate::cache::key::BuildKeyHasher;
use crate::cache::store::Holds;
use crate::cache::{Entry, Key};
use crate::config::Limits;
use crate::observe::ShedReason;
use crate::server::client::Client;

/// One lookup and who waits for it.
pub(super) struct Flight<U> {
    /// What was asked.
    pub(super) key: Key,
    /// RD. Without it the answer is neither kept nor given to anyone else.
    pub(super) recursion_desired: bool,
    /// Where it is looked up.
    pub(super) zone: Rc<Zone<U>>,
    /// The name it is looked up under, where it is rewritten.
    pub(super) target: Option<Box<[u8]>>,
    /// What may be served if there is no answer in time.
    pub(super) stale: Option<Entry>,
    /// The entry it refreshes ahead of time.
    pub(super) refreshes: Option<Entry>,
    /// What the store had for the question when it started. Nothing else keeps an answer to the same question under way.
    pub(super) before: Holds,
    /// The configuration it started under: under another its answer is not kept.
    pub(super) epoch: u64,
    /// The client timer is over: whoever comes now gets the stale answer at once.
    pub(super) stale_due: Cell<bool>,
    /// The upstream that answered last.
    pub(super) answered_by: RefCell<Option<Arc<str>>>,
    waiters: RefCell<Vec<Client>>,
}

/// All lookups on their way.
pub(super) struct Flights<U> {
    table: HashMap<Id, Rc<Flight<U>>, BuildKeyHasher>,
    waiting: usize,
    by_client: HashMap<IpAddr, usize>,
    bounds: Bounds,
}

/// How many of everything there may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bounds {
    /// Lookups.
    in_flight: usize,
    /// Clients waiting for one lookup.
    waiters: usize,
    /// Clients waiting in all.
    waiting: usize,
    /// One client's share of the lookups when others wait.
    client_share: f64,
}

/// A question's hash, RD, and the configuration: a lookup under an earlier one may ask where nobody is any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Id {
    hash: u64,
    recursion_desired: bool,
    epoch: u64,
}

impl std::hash::Hash for Id {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash ^ u64::from(self.recursion_desired) ^ self.epoch << 1);
    }
}

/// What to start.
pub(super) struct Start<U> {
    pub(super) key: Key,
    pub(super) recursion_desired: bool,
    pub(super) zone: Rc<Zone<U>>,
    pub(super) target: Option<Box<[u8]>>,
    pub(super) stale: Option<Entry>,
    pub(super) refreshes: Option<Entry>,
    pub(super) before: Holds,
    pub(super) epoch: u64,
}

/// How full the way is that a new lookup would take.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Load {
    /// Lookups on their way to the same upstreams.
    pub(super) in_flight: usize,
    /// The most there may be; `None` without a bound of its own.
    pub(super) capacity: Option<usize>,
}

impl<U> Flights<U> {
    pub(super) fn new(limits: &Limits) -> Self {
        let bounds = Bounds::new(limits);
        Self { table: HashMap::default(), waiting: 0, by_client: HashMap::new(), bounds }
    }

    /// Takes other limits from now on.
    pub(super) fn set_limits(&mut self, limits: &Limits) {
        self.bounds = Bounds::new(limits);
    }

    /// The lookup for this question under the configuration `epoch`.
    pub(super) fn find(&self, key: &Key, recursion_desired: bool, epoch: u64) -> Option<Rc<Flight<U>>> {
        let flight = self.table.get(&Id { hash: key.hash(), recursion_desired, epoch })?;
        (flight.key == *key).then(|| Rc::clone(flight))
    }

    /// Whether `client` may wait for a lookup that is on its way.
    pub(super) fn may_join(&self, flight: &Flight<U>, client: IpAddr) -> Result<(), ShedReason> {
        if flight.waiters.borrow().len() >= self.bounds.waiters || self.waiting >= self.bounds.waiting {
            return Err(ShedReason::Waiters);
        }
        self.fair(client, Load::default())
    }

    /// Whether `client` may start a lookup.
    pub(super) fn may_start(&self, client: IpAddr, load: Load) -> Result<(), ShedReason> {
        if self.waiting >= self.bounds.waiting {
            return Err(ShedReason::Waiters);
        }
        if self.table.len() >= self.bounds.in_flight
            || load.capacity.is_some_and(|most| load.in_flight >= most)
        {
            return Err(ShedReason::InFlight);
        }
        self.fair(client, load)
    }

    /// Whether there is room for lookups that nobody waits for.
    pub(super) fn has_room_for_prefetch(&self, load: Load) -> bool {
        !self.is_pressed(load)
    }

    /// Puts a lookup into the table. Where another question with the same hash is on its way, which is one chance in 2^64
    /// for two questions, nobody can join this one.
    pub(super) fn start(&mut self, start: Start<U>) -> Rc<Flight<U>> {
        let id =
            Id { hash: start.key.hash(), recursion_desired: start.recursion_desired, epoch: start.epoch };
        let Start { key, recursion_desired, zone, target, stale, refreshes, before, epoch } = start;
        let flight = Rc::new(Flight {
            key,
            recursion_desired,
            zone,
            target,
            stale,
            refreshes,
            before,
            epoch,
            stale_due: Cell::new(false),
            answered_by: RefCell::default(),
            waiters: RefCell::default(),
        });
        self.table.entry(id).or_insert_with(|| Rc::clone(&flight));
        flight
    }

    /// Lets `client` wait for `flight`.
    pub(super) fn wait(&mut self, flight: &Flight<U>, client: Client) {
        self.waiting += 1;
        *self.by_client.entry(client.address()).or_default() += 1;
        flight.waiters.borrow_mut().push(client);
    }

    /// Takes out all that wait for `flight`.
    pub(super) fn take_waiters(&mut self, flight: &Flight<U>) -> Vec<Client> {
        let waiters = std::mem::take(&mut *flight.waiters.borrow_mut());
        self.waiting -= waiters.len();
        for client in &waiters {
            if let std::collections::hash_map::Entry::Occupied(mut count) =
                self.by_client.entry(client.address())
            {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
        waiters
    }

    /// Takes the lookup out of the table.
    pub(super) fn end(&mut self, flight: &Flight<U>) {
        let id =
            Id { hash: flight.key.hash(), recursion_desired: flight.recursion_desired, epoch: flight.epoch };
        if let std::collections::hash_map::Entry::Occupied(place) = self.table.entry(id)
            && std::ptr::eq(&raw const **place.get(), flight)
        {
            place.remove();
        }
    }

    /// All lookups on their way.
    pub(super) fn all(&self) -> Vec<Rc<Flight<U>>> {
        self.table.values().cloned().collect()
    }

    /// How many lookups are on their way.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// How many clients wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// When more than half of anything is taken, a client that holds more than its share gets no more.
    fn fair(&self, client: IpAddr, load: Load) -> Result<(), ShedReason> {
        if !self.is_pressed(load) {
            return Ok(());
        }
        let room =
            load.capacity.map_or(self.bounds.in_flight, |capacity| capacity.min(self.bounds.in_flight));
        let share = ((room as f64 * self.bounds.client_share) as usize).max(1);
        match self.by_client.get(&client) {
            Some(&held) if held >= share => Err(ShedReason::ClientShare),
            _ => Ok(()),
        }
    }

    fn is_pressed(&self, load: Load) -> bool {
        self.table.len() * 2 > self.bounds.in_flight
            || self.waiting * 2 > self.bounds.waiting
            || load.capacity.is_some_and(|capacity| load.in_flight * 2 > capacity)
    }
}

impl Bounds {
    fn new(limits: &Limits) -> Self {
        /// Clients waiting in all, for each lookup there may be: a client takes some 250 bytes, so that 40,000 of them
        /// are 10 MB.
        const WAITING_PER_FLIGHT: usize = 4;
        Self {
            in_flight: limits.in_flight.max(1),
            waiters: limits.waiters.max(1),
            waiting: limits.in_flight.max(1).saturating_mul(WAITING_PER_FLIGHT),
            client_share: limits.client_share.0,
        }
    }
}
