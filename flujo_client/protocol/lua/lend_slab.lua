--[[ lend_slab — at an account's home: note what a shard holds of it, and lend it what it needs at least, and more, or nothing; once per transfer.
Among shards that ask in vain, who has asked for longest goes first: others get no more than an even share meanwhile.
KEYS  1 named hash   2 named_queue zset   3 named_due zset
ARGV  1 account   2 shard   3 transfer   4 window, ms   5 what the shard holds, "meter=amount ..."   6 what it needs at least   7 what it may get
      8 shards   9 ms for which others mind that it asks in vain
REPLY {1, granted, other shards that hold something, meters that are short} lent | {2, granted, other shards} lent before | {0, transfer} a later one was seen | {-1} another window, or no such account ]]
local named = named_open(KEYS[1], KEYS[2], KEYS[3])
local account, window, shards = named_account(named, ARGV[1]), tonumber(ARGV[4]), tonumber(ARGV[8])
if not account or (account.kind == 'calendar' and account.start or 0) ~= window then return {-1} end
local lent, lenders, vain, others, since, known, granted = {}, {}, {}, nil, named.now, false, ''
for shard = 0, shards - 1 do
  local row = terms_of(redis.call('HGET', KEYS[1], 'lent|' .. ARGV[1] .. ' ' .. int(shard)))
  local head, holds = words(row[1]), false
  local in_vain = tonumber(head[3] or 0) > named.now and tonumber(head[4]) or nil  -- of the meters in the row's last part
  if int(shard) == ARGV[2] then
    local last = tonumber(head[1] or 0)
    if last > tonumber(ARGV[3]) then return {0, int(last)} end
    since, known, granted = in_vain or since, last == tonumber(ARGV[3]), row[3] or ''
  else
    for _, meter in ipairs(in_vain and words(row[4]) or {}) do vain[meter] = math.min(vain[meter] or in_vain, in_vain) end
    others = others or in_vain
    for meter, amount in pairs(amounts(row[2])) do
      if meter == 'slots' or tonumber(head[2]) == window then lent[meter], holds = (lent[meter] or 0) + amount, true end
    end
    if holds then lenders[#lenders + 1] = int(shard) end
  end
end
if known then return {2, granted, table.concat(lenders, ' ')} end

local holds, least, most, short = amounts(ARGV[5]), amounts(ARGV[6]), amounts(ARGV[7]), {}
for meter, asked in pairs(least) do
  local held, limit, before = holds[meter] or 0, account.limits[meter] or 0, vain[meter] and vain[meter] < since
  if held + asked + (lent[meter] or 0) > limit or (before and held > 0 and (held + asked) * shards > limit) then short[#short + 1] = meter end
end
local grants, lacks = {}, table.concat(short, ' ')
for meter, asked in pairs(lacks == '' and least or {}) do
  local left = account.limits[meter] - (lent[meter] or 0) - (holds[meter] or 0)
  grants[meter] = others and asked or math.max(asked, math.min(left, most[meter] or 0))
  holds[meter] = (holds[meter] or 0) + grants[meter]
end
granted = slab_words(grants)
redis.call('HSET', KEYS[1], 'lent|' .. ARGV[1] .. ' ' .. ARGV[2], table.concat({
  table.concat({ARGV[3], int(window), int(lacks ~= '' and named.now + tonumber(ARGV[9]) or 0), int(since)}, ' '), slab_words(holds), granted, lacks}, ';'))
return {1, granted, table.concat(lenders, ' '), lacks}
