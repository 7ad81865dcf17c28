//! Zone names as small numbers, so that a counter of a zone is an array index.

use std::sync::{Arc, PoisonError, RwLock};

/// A zone's number: an index below [`ZoneId::COUNT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ZoneId(u16);

impl ZoneId {
    /// Zones with counters of their own. More would let a configuration multiply the series of a scrape.
    pub const NAMED: usize = 64;
    /// How many numbers there are: the named ones and [`ZoneId::OTHER`].
    pub const COUNT: usize = Self::NAMED + 1;
    /// What every zone past [`ZoneId::NAMED`] shares.
    pub const OTHER: Self = Self(Self::NAMED as u16);

    /// The number as an index below [`ZoneId::COUNT`].
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The zone with this index, if it is one.
    pub fn from_index(index: usize) -> Option<Self> {
        u16::try_from(index).ok().filter(|_| index < Self::COUNT).map(Self)
    }
}

/// The names given out so far. It only grows, so a number means the same zone across reloads.
#[derive(Debug, Clone, Default)]
pub struct Zones {
    names: Arc<RwLock<Vec<Arc<str>>>>,
}

impl Zones {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of `name`, which is the same for the same name in any letter case, with its last dot or without.
    /// The sixty-fifth name and all after it are [`ZoneId::OTHER`].
    pub fn intern(&self, name: &str) -> ZoneId {
        let name = canonical(name);
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let position = names.iter().position(|known| **known == *name).unwrap_or_else(|| {
            if names.len() < ZoneId::NAMED {
                names.push(name.into());
                return names.len() - 1;
            }
            ZoneId::NAMED
        });
        ZoneId(position as u16)
    }

    /// The label of a zone, such as `cluster.local.`, or `other`.
    pub fn name(&self, zone: ZoneId) -> Arc<str> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.get(zone.index()).cloned().unwrap_or_else(|| "other".into())
    }

    /// Every zone known so far, in the order they were first seen.
    pub fn known(&self) -> Vec<(ZoneId, Arc<str>)> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.iter().enumerate().map(|(index, name)| (ZoneId(index as u16), name.clone())).collect()
    }
}

/// Lower case, with the last dot.
fn canonical(name: &str) -> String {
    let mut name = name.trim_end_matches('.').to_ascii_lowercase();
    name.push('.');
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_has_one_number_whatever_its_spelling() {
        let zones = Zones::new();
        let cluster = zones.intern("cluster.local");
        assert_eq!(cluster, zones.intern("Cluster.LOCAL."));
        let root = zones.intern(".");
        assert_ne!(cluster, root);
        assert_eq!(&*zones.name(cluster), "cluster.local.");
        assert_eq!(&*zones.name(root), ".");
    }

    #[test]
    fn the_sixty_fifth_zone_is_other_and_the_first_ones_stay() {
        let zones = Zones::new();
        let first = zones.intern("zone0.");
        for number in 1..ZoneId::NAMED {
            assert_ne!(zones.intern(&format!("zone{number}.")), ZoneId::OTHER);
        }
        assert_eq!(zones.intern("one.too.many."), ZoneId::OTHER);
        assert_eq!(&*zones.name(ZoneId::OTHER), "other");
        assert_eq!(zones.intern("zone0"), first);
        assert_eq!(zones.known().len(), ZoneId::NAMED);
    }
}
