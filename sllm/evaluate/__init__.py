"""How good are models' answers, is one better than another, and is it luck: scores, statistics, gate, report."""
