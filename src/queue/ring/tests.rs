use super::*;

/// Flows that hold so many things of one cost each.
struct Piles(Vec<(usize, u64, Share)>);

impl Flows for Piles {
    fn share_mut(&mut self, flow: u32) -> &mut Share {
        &mut self.0[flow as usize].2
    }

    fn is_empty(&self, flow: u32) -> bool {
        self.0[flow as usize].0 == 0
    }
}

/// Serves `count` things of piles of (size, cost, weight); how many each had.
fn served(piles: &[(usize, u64, u32)], count: usize) -> Vec<usize> {
    let mut flows =
        Piles(piles.iter().map(|&(size, cost, weight)| (size, cost, Share::new(weight))).collect());
    let mut ring = Ring::default();
    for (at, (.., share)) in flows.0.iter_mut().enumerate() {
        ring.enter(at as u32, share);
    }
    let mut served = vec![0; piles.len()];
    for _ in 0..count {
        let Some(flow) = ring.whose_turn(&mut flows) else { break };
        let (left, cost, share) = &mut flows.0[flow as usize];
        *left -= 1;
        share.take(*cost);
        served[flow as usize] += 1;
    }
    served
}

#[test]
fn each_has_its_share_whatever_the_others_have() {
    assert_eq!(served(&[(1_000_000, 1, 1), (50, 1, 1), (50, 1, 1)], 90), [30, 30, 30]);
    assert_eq!(served(&[(1_000_000, 1, 1), (50, 1, 3)], 40), [10, 30]);
    assert_eq!(served(&[(1_000_000, 1, 1), (5, 1, 1)], 20), [15, 5]);
}

#[test]
fn what_costs_more_comes_less_often() {
    assert_eq!(served(&[(100, 4, 1), (1_000, 1, 1)], 50), [10, 40]);
    assert_eq!(served(&[(100, 256, 1), (1_000, 1, 1)], 514), [2, 512]);
}

#[test]
fn nothing_to_serve_is_said_at_once() {
    assert_eq!(served(&[(0, 1, 1), (3, 1, 1), (0, 1, 1)], 10), [0, 3, 0]);
    assert_eq!(served(&[], 10), [0; 0]);
}
