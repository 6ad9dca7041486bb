"""Channel identities: which positions of which axes are the same channel, or move as one.

Every axis that can be permuted is an array of *vertices* (integers), one per position. Operator
rules (`rules/`) speak about vertices with six verbs:

- sharing: an operator that keeps its channel axis hands the same array on;
- `occur(x)`: these channels stand together on an axis, whose set an exchange must keep;
- `tie(x, y)`: position i of one axis and position i of the other are the same channel (a residual
  sum, a weight's input axis), or, where both stand on one axis, move together (halves of a GLU);
- `bind(rows)`: the vertices of a row move as one block, each keeping its place in the row (flatten,
  groups of a convolution);
- `gather(rows, handles)`: a row is a *set* that moves as one, its handle with it, while its members
  may change places among themselves (the channels of an attention head, of a GroupNorm's group);
- `pin(x, reason)`: these channels stay where they are.

`orbits()` then finds what may be exchanged, and at which level: channels within a set, and sets as
blocks. `vertices.py` holds what the rules say, `orbits.py` what follows, `refinement.py` the
colours by which channels are told apart.
"""

from repair_kernels.axes.orbits import Orbits
from repair_kernels.axes.vertices import Axis, ChannelAxes

__all__ = ["Axis", "ChannelAxes", "Orbits"]
