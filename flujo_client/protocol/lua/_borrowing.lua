--[[ borrowing — how what others have free comes to who cannot wait for it, and how a reservation is settled; prepended at load after the
moves. ]]
-- Makes what the children of an account have free its own; they find out on their next touch. `rows` begin with its row, if it has one.
local function pool(rows, account)
  if #rows == 0 or rows[1].account ~= account or rows[1].children == rows[1].held then return end
  rows[1].children, rows[1].pool, rows[1].touched = rows[1].held, rows[1].pool + 1, true
end

-- The accounts of a chain, once what others have free was drawn into it, nearest split first, until `asked` is within reach: for what
-- cannot wait.
local function borrow(book, chain, meter, asked)
  local rows = lineage(book, chain, meter)
  for _, entry in ipairs(rows) do asked = math.min(asked, entry.cap and entry.cap - use(entry) or asked) end
  for level = 1, rows.top do
    if reachable(rows) >= asked then break end
    book.freed[rows[level].account] = rows[level].children > rows[level].held or book.freed[rows[level].account]
    pool({unpack(rows, level)}, rows[level].account)
    rows = lineage(book, chain, meter)
  end
  return rows
end

-- Turns `held` of a part (reserved or unknown) into spent; what no account covers is overrun, and is returned.
local function settle(book, chain, meter, part, held, actual)
  local rows = lineage(book, chain, meter)
  if #rows == 0 then return 0 end
  release(book, rows, part, held)
  rows = borrow(book, chain, meter, actual)
  local most = reachable(rows)
  local covered = math.min(actual, most)
  take(rows, 'spent', covered)
  rows[1].overrun = rows[1].overrun + (actual - covered)
  give_back(book, rows)
  return actual - covered
end
