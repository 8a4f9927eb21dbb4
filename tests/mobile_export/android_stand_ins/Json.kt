// Stand-ins with the signatures of Android's org.json that the sample calls.
package org.json

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive

class JSONObject internal constructor(private val tree: JsonObject) {
    constructor(text: String) : this(Json.parseToJsonElement(text).jsonObject)

    fun has(name: String) = name in tree
    fun isNull(name: String) = (tree[name] ?: JsonNull) is JsonNull
    fun getInt(name: String) = tree.getValue(name).jsonPrimitive.int
    fun getString(name: String) = tree.getValue(name).jsonPrimitive.content
    fun getJSONObject(name: String) = JSONObject(tree.getValue(name).jsonObject)
    fun getJSONArray(name: String) = JSONArray(tree.getValue(name).jsonArray)
}

class JSONArray internal constructor(private val tree: JsonArray) {
    fun length() = tree.size
    fun getInt(index: Int) = tree[index].jsonPrimitive.int
    fun getString(index: Int) = tree[index].jsonPrimitive.content
    fun getJSONObject(index: Int) = JSONObject(tree[index].jsonObject)
}
