--[[ call_waiters — let those who wait for a named account go on whom it can pay for now, by age: what they ask is booked, and they are dispatched.
KEYS  1 named hash   2 named_queue zset   3 named_due zset   4 dispatches zset   5 published hash
ARGV  1 account   2 most to call
REPLY {1, dispatches as "run path attempt queue", ...} called; as many as asked for: call again ]]
local called, calls = {}, tonumber(ARGV[2])
local named = named_open(KEYS[1], KEYS[2], KEYS[3])
redis.call('ZREM', KEYS[3], ARGV[1])
local member = first_waiter(named, ARGV[1])
while member and calls > 0 do
  local place = place_of(named, member)
  named.names = words(place[4])
  local estimate = amounts(place[5])
  local lack = named_lack(named, member, estimate, place[3])
  if not redis.call('ZSCORE', KEYS[4], member) then
    named_leave(named, member, nil, ARGV[1])  -- its run has ended
  elseif lack and not lack[7] then
    named_drop(named, member)
    named_wait(named, member, lack, place, place[4], place[5])
    if first_waiter(named, ARGV[1]) == member then break end
  else
    named_leave(named, member, nil, ARGV[1])
    if not lack then
      redis.call('HSET', KEYS[1], 'place|' .. member, table.concat({'p', '', place[3], named_book(named, estimate)}, ';'))
    elseif named_account(named, lack[1]).slab then  -- no shard has anything: reserve refuses it, as one that never can be paid
      redis.call('HSET', KEYS[1], 'place|' .. member, table.concat({'d', lack[1], place[3]}, ';'))
    end
    redis.call('ZADD', KEYS[4], int(named.now), member)
    redis.call('HSET', KEYS[5], member, '0 0')
    called[#called + 1], calls = member, calls - 1
  end
  member = first_waiter(named, ARGV[1])
end
local account = named_account(named, ARGV[1])  -- brings it up to date, if nobody waits
for meter, held in pairs(account and account.slab and account.slab.amounts or {}) do
  if held > used_of(account, meter) then redis.call('ZADD', KEYS[3], 'NX', int(named.now + LEASE_MS), ARGV[1]) end
end
if member and calls <= 0 then redis.call('ZADD', KEYS[3], int(named.now), ARGV[1]) end  -- for whoever is asked next
named_write(named)
return {1, unpack(called)}
