--[[ lose — give up a claim whose worker died, hung past its deadline or handed it over; its reservation becomes unknown unless refunded. A worker that left under the body (leave.lua) has not died: the claim counts as handed over.
KEYS  1 run hash   2 attempts hash   3 accounts hash   4 event stream   5 dirty zset   6 held zset of the incarnation   7 incarnations zset   8 inbox list
      9 waiters zset   10 dispatches zset   11 published hash   12 named hash   13 named_queue zset   14 named_due zset
ARGV  1 run id   2 path   3 attempt   4 claim nonce   5 incarnation   6 reason: died, overdue, stranger or handed_over   7 usage known if handed over, "meter=amount ..."
REPLY {1} lost | {0} the claim is not held any more | {-1} the reason no longer holds ]]
local path, claim = ARGV[2], 'claim|' .. ARGV[4] .. '|'
local member = table.concat({ARGV[1], path, ARGV[3], ARGV[4]}, ' ')
local stored = redis.call('HMGET', KEYS[2], claim .. 'phase', claim .. 'answer', claim .. 'reserved', path .. '|terms',
  claim .. 'left', claim .. 'named', path .. '|blocked')
if stored[1] ~= 'held' then
  redis.call('ZREM', KEYS[6], member)
  return {0}
end
local now, alive_until = now_ms(), redis.call('ZSCORE', KEYS[7], ARGV[5])
if ARGV[6] == 'died' and alive_until and tonumber(alive_until) >= now then return {-1} end
if ARGV[6] == 'overdue' and tonumber(stored[2]) >= now then return {-1} end
local left = ARGV[6] == 'died' and stored[5]
local reason = left and 'handed_over' or ARGV[6]

local terms = terms_of(stored[4])
local chain, book = chain_of(terms[3]), book_open(KEYS[3])
local on_loss = words(terms[2])  -- refund or charge, and pause where nobody runs it again before somebody says so
local refunded = on_loss[1] == 'refund' or reason == 'stranger'
local final = reason == 'stranger' or reason == 'handed_over'  -- no late bill can follow
local usage = final and amounts(left or ARGV[7]) or {}  -- else the late bill brings it, and would charge it twice
local reserved = amounts(stored[3])
for meter in pairs(usage) do reserved[meter] = reserved[meter] or 0 end
local unknown, over = {}, {}
for meter, held in pairs(reserved) do
  local known = usage[meter] or 0
  local rows = lineage(book, chain, meter)
  if #rows > 0 then
    local kept = held > known and not refunded and held - known or 0
    rows[1].reserved, rows[1].unknown = rows[1].reserved - kept, rows[1].unknown + kept
    local missing = settle(book, chain, meter, 'reserved', held - kept, known)
    if kept > 0 then unknown[#unknown + 1] = meter .. '=' .. int(kept) end
    if missing > 0 then over[#over + 1] = meter .. '=' .. int(missing) end
  end
end

local gate = redis.call('HGET', KEYS[1], 'gate')
local desk = desk_open({book = book, run_id = ARGV[1], run = KEYS[1], attempts = KEYS[2], events = KEYS[4], dirty = KEYS[5], inbox = KEYS[8],
  waiters = KEYS[9], dispatches = KEYS[10], published = KEYS[11]})
get_up(desk, path, ARGV[4], stored[7])
tally(desk, usage, path, ARGV[3], gate)
if on_loss[2] and not final and gate == 'open' then rest(book, path, chain) end
desk_close(desk)
if stored[6] then  -- accounts above the run
  local named = named_open(KEYS[12], KEYS[13], KEYS[14])
  redis.call('HSET', KEYS[2], claim .. 'named', named_settle(named, stored[6], 1, usage, not refunded, KEYS[3], KEYS[8]))
  named_write(named)
end
redis.call('HSET', KEYS[2], path .. '|state', 'closed', claim .. 'phase', final and 'settled' or 'lost', claim .. 'overrun', table.concat(over, ' '),
  claim .. 'used', final and (left or ARGV[7]) or '', claim .. 'unknown', table.concat(unknown, ' '))
redis.call('ZREM', KEYS[6], member)
if gate ~= 'closed' then  -- after the end nothing follows it in the stream
  append(KEYS[1], KEYS[4], KEYS[5], KEYS[8], ARGV[1], {'kind', 'lost', 'path', path, 'attempt', ARGV[3], 'nonce', ARGV[4],
    'reason', reason, 'incarnation', ARGV[5]})
end
return {1}
