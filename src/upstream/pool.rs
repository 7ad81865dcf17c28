//! Which connection of an endpoint a query is put on, and when another one is dialled.

use std::time::Duration;

/// What the choice sees of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    /// Whether it is for this query.
    pub(super) fit: Fit,
    /// Its next write is not full yet: one more query costs no system call.
    pub(super) filling: bool,
    /// Unanswered queries.
    pub(super) load: usize,
    /// How long the oldest of them has waited.
    pub(super) oldest: Option<Duration>,
}

/// Whether a connection is for a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// It takes no queries.
    Closed,
    /// It takes queries, but this one has been on it already.
    Tried,
    /// It takes queries, but was neither opened nor heard from since the moment that matters.
    Unproven,
    /// It takes queries, and lives.
    Proven,
}

impl View {
    /// Held up by an old query.
    fn is_blocked(&self, after: Duration) -> bool {
        self.oldest.is_some_and(|age| age >= after)
    }
}

/// The pool besides its connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Age of the oldest query from which on a connection is passed over.
    pub(super) blocked_after: Duration,
    /// The query has not been sent anywhere yet.
    pub(super) first_attempt: bool,
    /// Dials under way.
    pub(super) dialing: usize,
    /// Most connections that take queries at the same time.
    pub(super) max: usize,
}

/// What to do with a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// Put it on this connection; and with `spare`, dial another one for those to come.
    Use {
        /// Index of the connection.
        index: usize,
        /// Whether the pool should grow.
        spare: bool,
    },
    /// No connection will do: let it wait for a dial.
    Dial,
}

/// A connection that is proven and not held up by an old query, else a dial. Which of them:
///
/// - As a rule the least loaded; but what is asked at the same instant goes out in one write, unless a connection is held up.
/// - In a crowd, the first that has room and answers at once, unless a connection is held up or the query has been asked before.
///   Replies then come in few reads and cost few acknowledgements. A peer that serves a connection's queries one after another
///   and cannot keep up makes the oldest wait, and the next connection is taken: the pool grows when none will do.
///
/// Held-up connections do not count against the limit, since they take no queries; but there is a limit to them too,
/// [`HELD_UP_FACTOR`]. Where no dial has room, an unproven connection will do, and behind an old query is better than nowhere.
pub(super) fn choose(views: impl Iterator<Item = View>, limits: Limits) -> Choice {
    let (mut total, mut active) = (0, 0);
    // The least loaded by rank: proven, unproven, held up.
    let mut best: [Option<(usize, View)>; 3] = [None; 3];
    let mut filling: Option<(usize, View)> = None;
    let mut packed: Option<usize> = None;
    let (mut held_up, mut idle, mut waiting) = (false, 0, 0);
    for (index, view) in views.enumerate() {
        total += 1;
        if view.fit == Fit::Closed {
            continue;
        }
        let blocked = view.is_blocked(limits.blocked_after);
        active += usize::from(!blocked);
        held_up |= blocked;
        idle += usize::from(view.load == 0);
        waiting += view.load;
        if view.fit == Fit::Tried {
            continue;
        }
        let slot = &mut best[if blocked { 2 } else { usize::from(view.fit == Fit::Unproven) }];
        if slot.is_none_or(|(_, least)| view.load < least.load) {
            *slot = Some((index, view));
        }
        if view.filling && view.fit == Fit::Proven && !blocked {
            filling = Some((index, view));
        }
        let packs = view.load < PACKED_LOAD && !view.is_blocked(PACKED_AGE.min(limits.blocked_after / 3));
        if packed.is_none() && view.fit == Fit::Proven && packs {
            packed = Some(index);
        }
    }
    if let Some(index) = packed.filter(|_| limits.first_attempt && waiting >= CROWD && !held_up) {
        return Choice::Use { index, spare: false };
    }
    let room = active + limits.dialing < limits.max && total < limits.max.saturating_mul(HELD_UP_FACTOR);
    let [proven, unproven, blocked] = best;
    // Where names are slow and served in order, one more system call costs less than a place behind one of them.
    let proven = filling.filter(|_| !held_up).or(proven);
    if let Some((index, view)) = proven {
        let ageing = view.is_blocked(limits.blocked_after / 3);
        // Where one is held up the next may be soon: the queries after it find an idle one then.
        let short = held_up && idle <= IDLE_BESIDE_HELD_UP;
        let spare = room && limits.dialing < SPARE_DIALS && (view.load >= SOFT_LOAD || ageing || short);
        return Choice::Use { index, spare };
    }
    match unproven.or(blocked) {
        Some((index, _)) if !room && limits.dialing == 0 => Choice::Use { index, spare: false },
        _ => Choice::Dial,
    }
}

/// Connections in all, as a multiple of `max_connections`: the others wait for one slow name each.
pub(super) const HELD_UP_FACTOR: usize = 8;
/// Unanswered queries on the least loaded connection from which on another one is dialled.
const SOFT_LOAD: usize = 16;
/// Unanswered queries on all connections from which on they are packed.
const CROWD: usize = 32;
/// Unanswered queries that are packed on one connection: should a slow name be the first of them, all the others may be asked
/// again at once.
const PACKED_LOAD: usize = 48;
const _: () = assert!(PACKED_LOAD < super::budget::BURST as usize);
/// Age of the oldest from which on none is packed behind it. Absolute: the round trip grows with what is packed.
const PACKED_AGE: Duration = Duration::from_millis(1);
/// Idle connections, the one just taken included, that are wanted where names are slow.
const IDLE_BESIDE_HELD_UP: usize = 2;
/// Dials at a time for growth alone.
const SPARE_DIALS: usize = 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits =
        Limits { blocked_after: Duration::from_millis(3), first_attempt: true, dialing: 0, max: 4 };

    fn view(load: usize, oldest_ms: u64) -> View {
        let oldest = (load > 0).then(|| Duration::from_millis(oldest_ms));
        View { fit: Fit::Proven, filling: false, load, oldest }
    }

    #[test]
    fn the_least_loaded_wins_and_the_first_of_equals() {
        let views = [view(3, 0), view(1, 0), view(1, 0)];
        assert_eq!(choose(views.into_iter(), LIMITS), Choice::Use { index: 1, spare: false });
    }

    #[test]
    fn queries_of_one_instant_go_out_together() {
        let views = [view(0, 0), View { filling: true, ..view(3, 0) }];
        assert_eq!(choose(views.into_iter(), LIMITS), Choice::Use { index: 1, spare: false });
        let views = [view(0, 0), View { filling: true, ..view(3, 0) }, view(1, 3_000)];
        assert_eq!(
            choose(views.into_iter(), LIMITS),
            Choice::Use { index: 0, spare: true },
            "one is held up"
        );
    }

    #[test]
    fn an_old_query_is_not_queued_behind() {
        let views = [view(1, 3_000), view(9, 0)];
        assert_eq!(
            choose(views.into_iter(), LIMITS),
            Choice::Use { index: 1, spare: true },
            "and soon there is another"
        );
        assert_eq!(choose([view(1, 3_000)].into_iter(), LIMITS), Choice::Dial);
    }

    #[test]
    fn load_and_age_make_the_pool_grow_up_to_its_limit() {
        let busy = [view(SOFT_LOAD, 0)];
        assert_eq!(choose(busy.into_iter(), LIMITS), Choice::Use { index: 0, spare: true });
        assert_eq!(choose([view(1, 1)].into_iter(), LIMITS), Choice::Use { index: 0, spare: true });
        let full = [view(SOFT_LOAD, 0); 4];
        assert_eq!(choose(full.into_iter(), LIMITS), Choice::Use { index: 0, spare: false });
    }

    #[test]
    fn a_crowd_is_packed_where_nothing_is_slow() {
        let index = |views: &[View]| match choose(views.iter().copied(), LIMITS) {
            Choice::Use { index, spare } => (index, spare),
            Choice::Dial => panic!("there is room"),
        };
        let (full, room) = (view(PACKED_LOAD, 0), view(CROWD, 0));
        assert_eq!(index(&[room, view(0, 0)]), (0, false), "though another is idle, and without a dial");
        assert_eq!(index(&[view(CROWD - 1, 0), view(0, 0)]), (1, false), "no crowd");
        assert_eq!(index(&[full, room, view(0, 0)]), (1, false));
        assert_eq!(index(&[view(CROWD, 1), view(8, 0), view(0, 0)]), (1, false), "the first is ageing");
        assert_eq!(index(&[room, view(1, 3_000), view(0, 0)]), (2, true), "one is held up");
        assert_eq!(index(&[full, full]), (0, true), "all are full: another one is dialled");
        let far = Limits { blocked_after: Duration::from_millis(200), ..LIMITS };
        let views = [view(CROWD, 1), view(8, 0)];
        assert_eq!(
            choose(views.into_iter(), far),
            Choice::Use { index: 1, spare: false },
            "however long a round trip is"
        );
        let second = Limits { first_attempt: false, ..LIMITS };
        let views = [room, view(0, 0)];
        assert_eq!(
            choose(views.into_iter(), second),
            Choice::Use { index: 1, spare: false },
            "a second attempt"
        );
    }

    #[test]
    fn held_up_connections_leave_room_for_others_but_not_without_end() {
        let held_up = vec![view(1, 3_000); 4];
        assert_eq!(choose(held_up.into_iter(), LIMITS), Choice::Dial);
        let held_up = vec![view(1, 3_000); 4 * HELD_UP_FACTOR];
        assert_eq!(choose(held_up.into_iter(), LIMITS), Choice::Use { index: 0, spare: false });
    }

    #[test]
    fn a_second_question_goes_where_life_is_proven() {
        let unproven = View { fit: Fit::Unproven, ..view(0, 0) };
        assert_eq!(
            choose([unproven, view(2, 0)].into_iter(), LIMITS),
            Choice::Use { index: 1, spare: false }
        );
        assert_eq!(choose([unproven].into_iter(), LIMITS), Choice::Dial);
        assert_eq!(choose([unproven; 4].into_iter(), LIMITS), Choice::Use { index: 0, spare: false });
    }

    proptest! {
        #[test]
        fn never_where_it_has_been_and_never_more_than_the_limit(
            views in proptest::collection::vec((0usize..4, any::<bool>(), 0usize..80, 0u64..10), 0..40),
            dialing in 0usize..4,
        ) {
            let limits = Limits { dialing, ..LIMITS };
            let fits = [Fit::Closed, Fit::Tried, Fit::Unproven, Fit::Proven];
            let views: Vec<View> = views
                .into_iter()
                .map(|(fit, filling, load, age)| View { fit: fits[fit], filling, ..view(load, age) })
                .collect();
            let free = |v: &&View| !v.is_blocked(limits.blocked_after);
            let active = views.iter().filter(free).filter(|v| v.fit != Fit::Closed).count();
            let crowd = views.iter().filter(|v| v.fit != Fit::Closed).map(|v| v.load).sum::<usize>() >= CROWD;
            let packs = |v: &View| v.fit == Fit::Proven && v.load < PACKED_LOAD && v.oldest < Some(PACKED_AGE);
            match choose(views.iter().copied(), limits) {
                Choice::Use { index, spare } => {
                    let chosen = views[index];
                    let held_up = views.iter().any(|v| v.fit != Fit::Closed && !free(&v));
                    if crowd && !held_up && views.iter().any(packs) {
                        prop_assert!(packs(&chosen) && !views[..index].iter().any(packs));
                    } else if !chosen.filling {
                        let better = |v: &&View| v.fit == Fit::Proven && free(v) && v.load < chosen.load;
                        prop_assert!(!views.iter().any(|v| better(&v)));
                    }
                    prop_assert!(matches!(views[index].fit, Fit::Unproven | Fit::Proven));
                    prop_assert!(!spare || active + dialing < limits.max);
                }
                Choice::Dial => {
                    prop_assert!(!views.iter().filter(free).any(|v| v.fit == Fit::Proven));
                }
            }
        }
    }
}
