from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("sessions_app", "0004_move_conversation_items"),
    ]

    operations = [
        migrations.RemoveField(
            model_name="conversation",
            name="items",
        ),
    ]
