//! The simulator's judgement, each rule provoked by a mutated answer.
