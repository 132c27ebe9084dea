"""The planner: from what each part of a network may keep, in bytes and seconds, to what is kept; knows no framework.

A `CostGraph` says what parts and options there are. `solve_chain` finds the fastest schedule of a chain under a budget,
`plan_recurrence` the same for equal segments over time, `CutSolver` where "keep these cuts, redo everything between"
is all that can be done. `replay` finds what a schedule costs without knowing how it was made.
"""

from zoo.planner.articulation import CutSet, articulation_points, cut_sets
from zoo.planner.budget import parse_budget
from zoo.planner.chain import ChainSolver, InfeasibleBudgetError, solve_chain
from zoo.planner.cut_frontier import CutSolver
from zoo.planner.cuts import CutChain, CutPlan, least_memory_cuts
from zoo.planner.graph import CostGraph, Option, Part
from zoo.planner.noise import noise_of, solve_quietly
from zoo.planner.plan import Plan, PlannedPart
from zoo.planner.recurrent import RecurrentPlan, fewest_forward_runs, plan_recurrence, recurrent_schedule
from zoo.planner.schedule import Act, Operation, Schedule, replay
from zoo.planner.smallest import smallest_schedule
from zoo.planner.steps import Steps, nested_steps, runs_of

__all__ = [
    "Act",
    "ChainSolver",
    "CostGraph",
    "CutChain",
    "CutPlan",
    "CutSet",
    "CutSolver",
    "InfeasibleBudgetError",
    "Operation",
    "Option",
    "Part",
    "Plan",
    "PlannedPart",
    "RecurrentPlan",
    "Schedule",
    "Steps",
    "articulation_points",
    "cut_sets",
    "fewest_forward_runs",
    "least_memory_cuts",
    "nested_steps",
    "noise_of",
    "parse_budget",
    "plan_recurrence",
    "recurrent_schedule",
    "replay",
    "runs_of",
    "smallest_schedule",
    "solve_chain",
    "solve_quietly",
]
