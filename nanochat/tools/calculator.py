"""The calculator that a model can call: it walks an expression tree and never uses `eval`.

`12 + 7*3` · `+(2 - 5) / 4` · `1,200 * 2` · `"strawberry".count("r")`

Whole numbers are exact at any size: without powers, 200 characters make no number of more than 200 digits. A result
that is not computed in whole numbers is given up to 1e15, beyond which its digits would be wrong. A comma only
separates thousands: `1,2,3` has no value.
"""

import ast
import operator
import re
import warnings
from collections.abc import Callable

MAX_CHARACTERS = 200
MAX_MAGNITUDE = 1e15
"""Of a number that is not computed in whole numbers."""
QUOTE = re.compile("[\"']")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def calculate(expression: str) -> str | None:
    """The value as text; None if the expression is not supported, too long, or its value too large."""
    expression = expression.strip()
    if not expression or len(expression) > MAX_CHARACTERS:
        return None
    if not QUOTE.search(expression):  # a comma in a number separates thousands; in a string it is a letter to count
        expression = THOUSANDS.sub("", expression)
    try:
        with warnings.catch_warnings(action="ignore"):  # a model's syntax warnings do not concern the user
            value = _value(ast.parse(expression, mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None
    return str(int(value)) if isinstance(value, int) or value.is_integer() else f"{value:.10g}"


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _checked(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATIONS:
            return _checked(OPERATIONS[type(op)](_value(left), _value(right)))
        case ast.Call(
            func=ast.Attribute(value=ast.Constant(value=str() as text), attr="count"),
            args=[ast.Constant(value=str() as part)],
            keywords=[],
        ):
            return text.count(part)
    raise ValueError


def _checked(number: float) -> float:
    if not isinstance(number, int) and not abs(number) <= MAX_MAGNITUDE:
        raise ValueError
    return number
